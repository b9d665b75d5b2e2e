"""How long the move of a slot keeps writes waiting."""

from __future__ import annotations

import time


class Pause:
    """The time in which a slot takes no writes: from the source's freeze to the target's first possible write."""

    def __init__(self, frozen_us: int) -> None:
        """``frozen_us``: for how long the slot has been frozen already."""
        self._began = time.monotonic() - frozen_us / 1e6
        self.steps: dict[str, float] = {}
        """By step: milliseconds from the freeze until it was done."""

    def __repr__(self) -> str:
        return f"<Pause of {self.seconds * 1e3:.1f} ms: {self.steps}>"

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._began

    def done(self, step: str) -> None:
        """A step is done now."""
        self.steps[step] = round(self.seconds * 1e3, 1)
