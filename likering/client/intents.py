"""Stamps mutations with intent times that only grow, whatever the wall clock does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from likering.client.model import IntentTime, Mutation, micros_of


def wall_clock() -> int:
    """The present in µs since 1970."""
    return time.time_ns() // 1000


class IntentClock:
    """Gives each mutation the present moment in µs, and never the same or an earlier one twice. Thread-safe."""

    def __init__(self, now: Callable[[], int] = wall_clock) -> None:
        self._now = now
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """µs since 1970, at least one more than any given before."""
        with self._lock:
            now = self._now()
            if now <= self._last:
                now = self._last + 1
            self._last = now
            return now


PROCESS_CLOCK = IntentClock()
"""All clients of a process share one: what one of them did after another also has the later intent."""


def stamped(intent_time: IntentTime | None) -> int:
    """The intent in µs since 1970: the caller's, or else the present moment."""
    return PROCESS_CLOCK.next() if intent_time is None else micros_of(intent_time)


def stamped_all(mutations: Iterable[Mutation]) -> list[tuple[str, str, int, int]]:
    """The mutations as MutateLikes takes them: user, post, action, intent."""
    return [
        (mutation.user_id, mutation.post_id, mutation.action, stamped(mutation.intent_time))
        for mutation in mutations
    ]
