"""Decides whether and when a failed call is tried again. Pure: whoever calls does the sleeping and the calling.

This is the only layer that retries; gRPC's own retries are switched off. It may, because it is always safe: reads
change nothing, and every write carries an intent time, so a second arrival of it changes nothing either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from grpc import StatusCode

from likering.errors import LikeringError

_NO_TIME: Final = 0.001
"""Seconds that an attempt needs at least; with less left, another one could only run into the deadline."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed calls are tried again. Times in seconds.

    The n-th retry waits a random part, half to all, of ``initial_backoff * multiplier ** (n - 1)``, at most
    ``max_backoff``; a server that says when to come back is not asked earlier. ``tokens`` is what a client may lose:
    each failed attempt costs one, each success earns ``tokens_per_success``, and while fewer than half are left nothing
    is tried again, so that clients do not finish off a service that is already in trouble. 0 tokens: never retry.
    """

    initial_backoff: float = 0.05
    max_backoff: float = 1.0
    multiplier: float = 2.0
    tokens: float = 100.0
    tokens_per_success: float = 0.1


class RetryThrottle:
    """The tokens of one client, shared by all its calls. Thread-safe."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._capacity = policy.tokens
        self._earned = policy.tokens_per_success
        self._tokens = policy.tokens
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RetryThrottle({self._tokens:g} of {self._capacity:g})"

    def succeeded(self) -> None:
        if self._tokens < self._capacity:
            with self._lock:
                self._tokens = min(self._capacity, self._tokens + self._earned)

    def failed(self) -> bool:
        """Takes a token away; whether retries are allowed with what is left."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > self._capacity / 2


class Attempts:
    """The attempts of one call."""

    def __init__(self, policy: RetryPolicy, throttle: RetryThrottle, random: Callable[[], float]) -> None:
        """``random`` gives numbers from 0 up to 1."""
        self._policy = policy
        self._throttle = throttle
        self._random = random
        self._backoff = policy.initial_backoff

    def succeeded(self) -> None:
        self._throttle.succeeded()

    def delay_after(self, error: LikeringError, remaining: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up. ``remaining``: seconds to the deadline."""
        if not is_transient(error):
            # The service answered: that it did not like the question says nothing against its health.
            if error.code is not StatusCode.DEADLINE_EXCEEDED:
                self._throttle.succeeded()
            return None
        if not self._throttle.failed():
            return None
        backoff = self._backoff
        self._backoff = min(self._policy.max_backoff, backoff * self._policy.multiplier)
        delay = (error.retry_after or 0.0) + backoff * (0.5 + 0.5 * self._random())
        return delay if delay + _NO_TIME < remaining else None


def is_transient(error: LikeringError) -> bool:
    """Whether the same call may well succeed a little later."""
    return error.code is StatusCode.UNAVAILABLE or (
        error.code is StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None
    )
