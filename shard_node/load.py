"""How much a node does: writes a second and how long they take, over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

WINDOW = 10.0
"""Seconds that are looked back."""


class Load:
    """Batches that were committed lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._batches: deque[tuple[float, int, float]] = deque()

    def __repr__(self) -> str:
        return f"<Load {self.writes_per_second:.0f} writes/s>"

    def committed(self, units: Iterable[tuple[int, float]]) -> None:
        """Units of a batch: how many writes, and when they had arrived."""
        now = self._clock()
        self._batches.extend((now, writes, now - arrived) for writes, arrived in units)
        self._forget(now)

    @property
    def writes_per_second(self) -> float:
        """Over the window."""
        self._forget(self._clock())
        return sum(writes for _, writes, _ in self._batches) / WINDOW

    def percentile(self, part: float) -> float:
        """Seconds from arrival to commit that this part (0 to 1) of the writes did not exceed; 0 without writes."""
        self._forget(self._clock())
        total = sum(writes for _, writes, _ in self._batches)
        seen = 0
        for _, writes, seconds in sorted(self._batches, key=lambda batch: batch[2]):
            seen += writes
            if seen >= part * total:
                return seconds
        return 0.0

    def _forget(self, now: float) -> None:
        while self._batches and self._batches[0][0] < now - WINDOW:
            self._batches.popleft()
