"""Carries out calls on an asyncio channel: deadline, metadata, retries, and errors as our own classes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from likering.client.calls import Call
from likering.client.connect import ClientClosed, ServiceUnreachable, Target
from likering.client.feed import EventBatch, Resumption, StreamLikeEvents
from likering.client.model import LikeCount
from likering.client.renewal import AioLines
from likering.client.retry import Attempts, RetryPolicy, RetryThrottle
from likering.client.watching import SILENCE, News, Reconnects, Watch, ended
from likering.errors import DeadlineExceeded

T = TypeVar("T")


class AioCaller:
    """The channel of a client and its retry throttle. Belongs to the event loop that it is created in."""

    def __init__(
        self,
        lines: AioLines,
        target: Target,
        policy: RetryPolicy,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._lines = lines
        self._target = target
        self._policy = policy
        self._throttle = RetryThrottle(policy)
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._streams: set[Any] = set()

    async def __call__(self, call: Call[T], timeout: float) -> T:
        """The call's answer within ``timeout`` seconds, all attempts together; or one of likering.errors."""
        return call.parse(await self.send(call.method, call.request(), timeout))

    async def send(self, method: str, request: Message, timeout: float) -> Any:
        """As a call, but gives the response message itself."""
        if self._closed:
            raise ClientClosed
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._attempt(method, request, timeout)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def watch(self, watch: Watch, patience: float) -> AsyncGenerator[LikeCount, None]:
        """The counts, connecting anew when that helps; ``patience`` in seconds until the first answer."""
        request = watch.request()
        news = News()
        reconnects = Reconnects(self._policy, self._jitter, self._loop.time, patience)
        while not self._closed:
            with self._lines.line() as line:
                stream = line.stub.WatchLikeCounts(request, metadata=self._target.metadata())
                self._streams.add(stream)
                error = ended()
                try:
                    while True:
                        async with asyncio.timeout(SILENCE):
                            response = await stream.read()
                        if response is grpc.aio.EOF:
                            break
                        reconnects.answered()
                        for count in news.of(response):
                            yield count
                except grpc.aio.AioRpcError as failure:
                    error = self._target.error(failure)
                    error.__cause__ = failure
                except TimeoutError:
                    error = self._target.silent(SILENCE)
                except asyncio.CancelledError:
                    if self._closed:
                        raise ClientClosed("The client was closed during the call") from None
                    raise
                finally:
                    self._streams.discard(stream)
                    stream.cancel()
            delay = reconnects.delay_after(error)
            if delay is None:
                raise error
            await asyncio.sleep(delay)
        raise ClientClosed

    def _cancelled_by_close(self) -> bool:
        """Whether a stream was cancelled here, and not by whoever iterates over it."""
        task = asyncio.current_task()
        return self._closed and task is not None and not task.cancelling()

    async def follow(self, wanted: StreamLikeEvents, cursor: str) -> AsyncGenerator[EventBatch, None]:
        """The batches after the cursor; a stream that breaks is begun again. Raises one of likering.errors."""
        resumption = Resumption(cursor, self._policy, self._jitter, self._loop.time())
        while True:
            if self._closed:
                raise ClientClosed
            with self._lines.line() as line:
                stream: Any = line.stub.StreamLikeEvents(
                    wanted.request(resumption.cursor), metadata=self._target.metadata()
                )
                self._streams.add(stream)
                error = ended()
                try:
                    async for response in stream:
                        batch = wanted.parse(response)
                        resumption.received(batch, self._loop.time())
                        yield batch
                except grpc.aio.AioRpcError as failure:
                    error = self._target.error(failure)
                except asyncio.CancelledError:
                    if self._cancelled_by_close():
                        raise ClientClosed("The client was closed during the call") from None
                    raise
                finally:
                    self._streams.discard(stream)
                    stream.cancel()
            delay = resumption.delay_after(error, self._loop.time())
            if delay is None:
                raise error
            await asyncio.sleep(delay)

    async def connect(self, timeout: float) -> None:
        """Waits until the service answers; ServiceUnreachable says why it does not. Any answer will do."""
        if self._closed:
            raise ClientClosed
        try:
            with self._lines.line() as line:
                await line.health_check(b"", timeout=timeout, metadata=self._target.metadata())
        except grpc.aio.AioRpcError as failure:
            error = self._target.error(failure)
            if isinstance(error, DeadlineExceeded):
                raise self._target.silent(timeout) from failure
            if isinstance(error, ServiceUnreachable):
                raise error from failure

    async def close(self) -> None:
        """Takes no more calls, and returns when those under way have ended. Watches end with ClientClosed."""
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        await self._idle.wait()
        await self._lines.close()

    async def _attempt(self, method: str, request: Message, timeout: float) -> Any:
        deadline = self._loop.time() + timeout
        attempts = Attempts(self._policy, self._throttle, self._jitter)
        remaining = timeout
        while True:
            try:
                with self._lines.line() as line:
                    call = getattr(line.stub, method)
                    response = await call(request, timeout=remaining, metadata=self._target.metadata())
            except grpc.aio.AioRpcError as failure:
                error = self._target.error(failure)
                delay = attempts.delay_after(error, deadline - self._loop.time())
                if delay is None:
                    raise error from failure
            else:
                attempts.succeeded()
                return response
            await asyncio.sleep(delay)
            remaining = deadline - self._loop.time()
            if remaining <= 0:  # woke up late
                raise error
