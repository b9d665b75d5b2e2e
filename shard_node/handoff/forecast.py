"""When to have a slot frozen: rows that go the way of all others tell how long that would take now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

PROBES = 3
"""A freeze is predicted from the slowest of so many probes in a row."""
DRAIN_SHARE = 0.5
"""The part of the pause budget that draining may take; the rest is for the commit and what follows."""
AFTER_DRAIN = 0.02
"""Seconds of a pause that come after the last row has arrived."""
CALM = 0.004
"""Seconds that no probe exceeds in a calm moment."""
CALM_COMMIT = 0.01
"""Seconds that no commit in the topology exceeds in a calm moment."""
CALM_PATIENCE = 0.5
"""Seconds that a freeze which fits into the budget waits for such a moment."""
SLOW_AFTER = 1.0
"""Seconds that a freeze has been too long to begin after which the source is to write less."""
SLOW_STEP = 0.5
"""Seconds after which it is to write still less."""
MOST_STEPS = 5


class Advice(Enum):
    """What follows from the probes so far."""

    PROBE_AGAIN = auto()
    FREEZE = auto()
    WAIT = auto()
    """A freeze would take longer than it may."""


class Forecast:
    """Of one attempt's pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=PROBES)
        self._fits_since: float | None = None
        self._late_since: float | None = None

    def __repr__(self) -> str:
        return f"<Forecast of {self.pause:.3f} s>"

    @property
    def lag(self) -> float:
        """Seconds that the slowest of the recent probes took."""
        return max(self._recent, default=0.0)

    @property
    def pause(self) -> float:
        """Seconds that a pause would take now."""
        return self.lag + AFTER_DRAIN

    @property
    def rest(self) -> float:
        """How many times as long as a commit takes the source is to rest after each one: 0 for not at all.

        Twice as long with each step. Without that, a source that writes faster than the target's Postgres can follow
        would never be caught up with.
        """
        late = 0.0 if self._late_since is None else self._clock() - self._late_since
        if late < SLOW_AFTER:
            return 0.0
        return float(2 ** min(int((late - SLOW_AFTER) / SLOW_STEP), MOST_STEPS))

    def forget(self) -> None:
        """The probes so far say nothing about now."""
        self._recent.clear()
        self._fits_since = self._late_since = None

    def advice(self, seconds: float, budget: float) -> Advice:
        """What to do after a probe that took so many seconds; ``budget``: seconds that a pause may take."""
        self._recent.append(seconds)
        now = self._clock()
        if self.lag <= budget * DRAIN_SHARE:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        if self._late_since is not None or self.pause > budget:
            # A budget that no pause would keep within is no reason to slow the source down.
            self._fits_since = None
            return Advice.WAIT
        if len(self._recent) < PROBES:
            return Advice.PROBE_AGAIN
        self._fits_since = now if self._fits_since is None else self._fits_since
        return Advice.PROBE_AGAIN if self.lag > CALM and self._is_patient else Advice.FREEZE

    def still(self, commit: float) -> bool:
        """Whether FREEZE is to be followed after a commit in the topology, which took so many seconds.

        A pause has one more of them in it, and how long that takes is what pauses differ in most.
        """
        return commit <= CALM_COMMIT or not self._is_patient

    @property
    def _is_patient(self) -> bool:
        """Whether a freeze that fits may wait for a calmer moment."""
        return self._fits_since is not None and self._clock() < self._fits_since + CALM_PATIENCE
