"""How much a node does for callers, over the last seconds."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

from shard_node.hot_posts import HotPosts

WINDOW = 10.0
"""Seconds that are looked back."""
IN_USE = 2.0
"""Seconds after a call in which a node counts as used."""


class Load:
    """Calls that came and batches that were committed lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._batches: deque[tuple[float, int, float]] = deque()
        self._called_at = -math.inf
        self.hot_writes = HotPosts(clock)
        """Posts of the operations that were committed."""
        self.hot_reads = HotPosts(clock)
        """Posts whose counts or likes were asked for."""

    def __repr__(self) -> str:
        return f"<Load {self.writes_per_second:.0f} writes/s>"

    def called(self) -> None:
        """A call for slots of this node has come."""
        self._called_at = self._clock()

    @property
    def in_use(self) -> bool:
        """Whether there are callers who could notice what the node does besides."""
        return self._clock() < self._called_at + IN_USE

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
