"""Watches of the like service in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from likering.client.model import LikeCount
from likering.conflation import Conflation
from likering.validation import MAX_POSTS


class MemoryWatch:
    """The changes of some posts, from their present counts on. Thread-safe."""

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        """``wake`` is called, from any thread, when there may be something to take."""
        self._wake = wake
        self._clock = clock
        self._lock = threading.Lock()
        self._changed: Conflation[str, LikeCount] = Conflation()

    def changed(self, count: LikeCount) -> None:
        """A post has changed, or is new to the watch."""
        with self._lock:
            self._changed.offer(count.post_id, count)
        self._wake()

    def take(self) -> tuple[list[LikeCount], float | None]:
        """What there is to tell, and in how many seconds there may be more; None: only after ``wake``."""
        with self._lock:
            now = self._clock()
            counts = list(self._changed.take(now, MAX_POSTS).values())
            return counts, self._changed.due_in(now)


class WatchedPosts:
    """Who watches which posts. Its user's lock guards it."""

    def __init__(self) -> None:
        self._watches: dict[str, list[MemoryWatch]] = {}

    def add(self, watch: MemoryWatch, post_ids: Sequence[str]) -> None:
        for post_id in post_ids:
            self._watches.setdefault(post_id, []).append(watch)

    def remove(self, watch: MemoryWatch, post_ids: Sequence[str]) -> None:
        for post_id in post_ids:
            watches = self._watches[post_id]
            watches.remove(watch)
            if not watches:
                del self._watches[post_id]

    def of(self, post_id: str) -> Sequence[MemoryWatch]:
        return self._watches.get(post_id, ())
