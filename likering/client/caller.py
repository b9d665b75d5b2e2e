"""Carries out calls on a synchronous channel: deadline, metadata, retries, and errors as our own classes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeVar

import grpc

from likering.client.calls import Call
from likering.client.connect import ClientClosed, ServiceUnreachable, Target
from likering.client.feed import EventBatch, Resumption, StreamLikeEvents
from likering.client.model import LikeCount
from likering.client.renewal import BlockingLines
from likering.client.retry import Attempts, RetryPolicy, RetryThrottle
from likering.client.watching import News, Reconnects, Watch, ended
from likering.errors import DeadlineExceeded, LikeringError

T = TypeVar("T")

_LONGEST_STREAM: Final = 300.0
"""Seconds after which a watch is opened anew."""


class Clock(Protocol):
    """Time as the retries see it. ``time`` in seconds from any start, never going back."""

    def time(self) -> float: ...
    def sleep_for(self, duration: float) -> None: ...


class MonotonicClock:
    """The machine's."""

    def time(self) -> float:
        return time.monotonic()

    def sleep_for(self, duration: float) -> None:
        time.sleep(duration)


MONOTONIC: Final = MonotonicClock()


class Caller:
    """The channel of a client and its retry throttle. Thread-safe."""

    def __init__(
        self,
        lines: BlockingLines,
        target: Target,
        policy: RetryPolicy,
        *,
        clock: Clock = MONOTONIC,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._lines = lines
        self._target = target
        self._policy = policy
        self._throttle = RetryThrottle(policy)
        self._clock = clock
        self._jitter = jitter
        self._closed = False

    def __call__(self, call: Call[T], timeout: float) -> T:
        """The call's answer within ``timeout`` seconds, all attempts together; or one of likering.errors."""
        request = call.request()
        deadline = self._clock.time() + timeout
        attempts = Attempts(self._policy, self._throttle, self._jitter)
        remaining = timeout
        while True:
            if self._closed:
                raise ClientClosed
            try:
                with self._lines.line() as line:
                    method = getattr(line.stub, call.method)
                    response = method(request, timeout=remaining, metadata=self._target.metadata())
            except grpc.RpcError as failure:
                error = self._error(failure)
                delay = attempts.delay_after(error, deadline - self._clock.time())
                if delay is None:
                    raise error from failure
            else:
                attempts.succeeded()
                return call.parse(response)
            self._clock.sleep_for(delay)
            remaining = deadline - self._clock.time()
            if remaining <= 0:  # woke up late
                raise error

    def watch(self, watch: Watch, patience: float) -> Generator[LikeCount, None, None]:
        """The counts, connecting anew when that helps; ``patience`` in seconds until the first answer."""
        request = watch.request()
        news = News()
        reconnects = Reconnects(self._policy, self._jitter, self._clock.time, patience)
        while not self._closed:
            with self._lines.line() as line:
                # The deadline finds a peer that neither speaks nor hangs up; a blocking stream has no other.
                stream = line.stub.WatchLikeCounts(
                    request, timeout=_LONGEST_STREAM, metadata=self._target.metadata()
                )
                error = ended()
                try:
                    for response in stream:
                        reconnects.answered()
                        yield from news.of(response)
                except grpc.RpcError as failure:
                    error = self._error(failure)
                    error.__cause__ = failure
                finally:
                    stream.cancel()
            delay = reconnects.delay_after(error)
            if delay is None:
                raise error
            self._clock.sleep_for(delay)
        raise ClientClosed

    def follow(self, wanted: StreamLikeEvents, cursor: str) -> Generator[EventBatch, None, None]:
        """The batches after the cursor; a stream that breaks is begun again. Raises one of likering.errors."""
        resumption = Resumption(cursor, self._policy, self._jitter, self._clock.time())
        while True:
            if self._closed:
                raise ClientClosed
            with self._lines.line() as line:
                stream: Any = line.stub.StreamLikeEvents(
                    wanted.request(resumption.cursor), metadata=self._target.metadata()
                )
                error = ended()
                try:
                    for response in stream:
                        batch = wanted.parse(response)
                        resumption.received(batch, self._clock.time())
                        yield batch
                except grpc.RpcError as failure:
                    error = self._error(failure)
                finally:
                    stream.cancel()
            delay = resumption.delay_after(error, self._clock.time())
            if delay is None:
                raise error
            self._clock.sleep_for(delay)

    def connect(self, timeout: float) -> None:
        """Waits until the service answers; ServiceUnreachable says why it does not.

        Any answer will do, so a service without health checks is as good: what counts is that there is somebody.
        """
        if self._closed:
            raise ClientClosed
        try:
            with self._lines.line() as line:
                line.health_check(b"", timeout=timeout, metadata=self._target.metadata())
        except grpc.RpcError as failure:
            error = self._error(failure)
            if isinstance(error, DeadlineExceeded):
                raise self._target.silent(timeout) from failure
            if isinstance(error, ServiceUnreachable):
                raise error from failure

    def close(self) -> None:
        """Ends the calls that are under way with ClientClosed. May be called twice."""
        self._closed = True
        for channel in self._lines.take_all():
            channel.close()

    def _error(self, failure: grpc.RpcError) -> LikeringError:
        if self._closed and failure.code() is grpc.StatusCode.CANCELLED:
            return ClientClosed("The client was closed during the call")
        return self._target.error(failure)
