"""Lets through so many events a second and counts the others: for log lines that a flood of calls would cause."""

from __future__ import annotations

from time import monotonic


class Throttle:
    """A token bucket that holds one second's worth."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._filled_at = monotonic()
        self._left_out = 0

    def admit(self) -> int | None:
        """None when this event is one too many, else how many were left out since the last that was not."""
        now = monotonic()
        self._tokens = min(self._per_second, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1:
            self._left_out += 1
            return None
        self._tokens -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out
