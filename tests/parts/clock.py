"""A clock for pieces that are given one."""

from __future__ import annotations


class Clock:
    """Stands still but for what a test adds to ``now`` (seconds)."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
