"""Which posts are asked for most often, over the last minute, in bounded memory.

Counted by time slices, each a dict that is cut down whenever it has grown too large: what the first of those cut off
had is taken from all (Misra and Gries, in bulk). A count is then too low by what has been taken, and by no more; a
post with a larger share than one in ``KEPT`` is never cut off. A batch is counted by one call into C, so a post's
share of the cost is some ten nanoseconds.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

WINDOW = 60.0
"""Seconds that are looked back, at most."""
SLICE = 5.0
"""Seconds after which the counting begins anew: the window loses so much at once."""
KEPT = 1000
"""Posts that are kept of a slice."""
ROOM = 8000
"""Posts above which a slice is cut down."""


class Hottest(NamedTuple):
    """Posts with their counts, the hottest first; counts are too low by at most ``missed``."""

    posts: list[tuple[str, int]]
    missed: int
    seconds: float


class _Slice:
    """From ``began`` on: counts, and by how much each may be too low."""

    __slots__ = ("began", "counts", "missed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.counts: Counter[str] = Counter()
        self.missed = 0

    def cut(self) -> None:
        if len(self.counts) <= KEPT:
            return
        taken = sorted(self.counts.values())[-KEPT - 1]
        self.counts = Counter(
            {post_id: count - taken for post_id, count in self.counts.items() if count > taken}
        )
        self.missed += taken


class HotPosts:
    """For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._slice = _Slice(self._since)
        self._past: deque[_Slice] = deque()

    def __repr__(self) -> str:
        return f"<HotPosts, {len(self)} counts>"

    def __len__(self) -> int:
        """How many counts are held."""
        return len(self._slice.counts) + sum(len(past.counts) for past in self._past)

    def add(self, post_ids: Iterable[str]) -> None:
        """These posts were asked for, each as often as it is there."""
        now = self._clock()
        if now >= self._slice.began + SLICE:
            self._turn(now)
        counts = self._slice.counts
        counts.update(post_ids)
        if len(counts) > ROOM:
            self._slice.cut()

    def hottest(self, limit: int) -> Hottest:
        """Of the last minute, or of what there is of it."""
        now = self._clock()
        if now >= self._slice.began + SLICE:
            self._turn(now)
        self._forget(now)
        counts = self.counts()
        posts = heapq.nsmallest(limit, counts.items(), key=lambda item: (-item[1], item[0]))
        began = max(self._since, self._past[0].began if self._past else self._slice.began)
        missed = self._slice.missed + sum(past.missed for past in self._past)
        return Hottest(posts, missed, now - began)

    def counts(self) -> Counter[str]:
        """All counts that are held."""
        counts = Counter(self._slice.counts)
        for past in self._past:
            counts.update(past.counts)
        return counts

    def _turn(self, now: float) -> None:
        self._slice.cut()
        self._past.append(self._slice)
        self._slice = _Slice(now)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._past and self._past[0].began <= now - WINDOW:
            self._past.popleft()
