"""The streams of responses that a service has open, and what ends them from outside.

That is a drain, or that the credential which a stream began with counts no more: it has expired, or the files of roles
and keys have changed. A stream may last for days, and nobody who was shut out is to go on reading meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, TypeVar

from likering.errors import LikeringError, NoCredential

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
"""Between two looks whether credentials may count no more."""


class Draining(Exception):
    """A stream is to end because its server does."""


class OpenStream:
    """One stream. ``check`` raises LikeringError when its caller's credential counts no more; None: there is none."""

    def __init__(self, expires_at: float, check: Callable[[], object] | None) -> None:
        """``expires_at``: when the credential does, on the clock of ``time.monotonic``."""
        self._expires_at = expires_at
        self._check = check
        self._waiting: asyncio.Timeout | None = None
        self._ended_by: Exception | None = None

    async def next(self, responses: AsyncGenerator[T, None]) -> T | None:
        """The next response, None after the last one. Raises what the stream is to end with."""
        # Only here can a stream be ended: gRPC fails to send the status while a write is in progress.
        if self._ended_by is not None:
            raise self._ended_by
        remaining = self._expires_at - monotonic()
        if remaining <= 0:
            raise NoCredential
        waiting = asyncio.timeout(None if math.isinf(remaining) else remaining)
        try:
            async with waiting:
                self._waiting = waiting
                return await anext(responses)
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise (self._ended_by or NoCredential()) from error
        finally:
            self._waiting = None

    def look(self) -> None:
        """Ends the stream if its credential counts no more."""
        if self._check is not None:
            try:
                self._check()
            except LikeringError as error:
                self.end(error)

    def end(self, reason: Exception) -> None:
        """Ends the stream with ``reason``: at once if it waits for a response, else before the next one."""
        if self._ended_by is not None:
            return
        self._ended_by = reason
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())


class OpenStreams:
    """Those of one service."""

    def __init__(self, credentials: Callable[[], Any] | None = None) -> None:
        """``credentials`` gives another value when some may count no more; None: callers have none."""
        self._credentials = credentials
        self._open: set[OpenStream] = set()
        self._looking: asyncio.Task[None] | None = None
        self._draining = False

    def __repr__(self) -> str:
        return f"<OpenStreams {len(self._open)}>"

    @contextmanager
    def opened(
        self, expires_at: float = math.inf, check: Callable[[], object] | None = None
    ) -> Iterator[OpenStream]:
        """A stream that has just been let in; see OpenStream."""
        stream = OpenStream(expires_at, check)
        if self._draining:
            stream.end(Draining())
        self._open.add(stream)
        if self._looking is None and self._credentials is not None:
            self._looking = asyncio.create_task(self._look(self._credentials), name="look at credentials")
        try:
            yield stream
        finally:
            self._open.discard(stream)
            if not self._open and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def end(self) -> None:
        """Ends all of them, and each one that begins from now on."""
        self._draining = True
        for stream in tuple(self._open):
            stream.end(Draining())

    async def _look(self, credentials: Callable[[], Any]) -> None:
        seen = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = credentials()
            if now != seen:
                seen = now
                for stream in tuple(self._open):
                    stream.look()
                    # A token that is verified anew takes a while, and there may be thousands.
                    await asyncio.sleep(0)
