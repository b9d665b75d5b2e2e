"""The channel of a client, opened anew when the credentials that it shows were renewed: gRPC's channels keep theirs."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from likering.client.connect import HEALTH_CHECK, Target
from likering.v1.like_service_pb2_grpc import LikeServiceStub

C = TypeVar("C", grpc.Channel, grpc.aio.Channel)


@dataclass(slots=True, eq=False)
class Line(Generic[C]):
    """A channel, and how many calls are on it."""

    channel: C
    shown: grpc.ChannelCredentials | None
    stub: Any
    """Of LikeService; its type is that of blocking channels."""
    health_check: Callable[..., Any]
    """Without a serializer it takes and gives bytes, and no bytes at all are a valid request."""
    calls: int = 0


class Lines(ABC, Generic[C]):
    """The line of a client, and those of before it until their last call has ended. Thread-safe."""

    def __init__(self, target: Target, channel: C | None = None) -> None:
        """``channel``: one of the user's own, which is never opened anew."""
        self._target = target
        self._renewable = channel is None and target.renewable
        self._lock = threading.Lock()
        self._newest: Line[C] = self._open(target.shown()) if channel is None else _line(channel, None)
        self._open_lines: list[Line[C]] = [self._newest]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target!r}, {len(self._open_lines)} open>"

    def __len__(self) -> int:
        return len(self._open_lines)

    @contextmanager
    def line(self) -> Iterator[Line[C]]:
        """For one call: the line that shows what is to be shown now."""
        if not self._renewable:
            yield self._newest
            return
        shown = self._target.shown()
        with self._lock:
            before = self._newest
            if shown is not before.shown:
                self._newest = self._open(shown)
                self._open_lines.append(self._newest)
            line = self._newest
            line.calls += 1
        if line is not before:
            self._end_if_over(before)
        try:
            yield line
        finally:
            with self._lock:
                line.calls -= 1
            self._end_if_over(line)

    def take_all(self) -> list[C]:
        """The channels that are open, for whoever closes them."""
        with self._lock:
            lines, self._open_lines = self._open_lines, []
        return [line.channel for line in lines]

    def _open(self, shown: grpc.ChannelCredentials | None) -> Line[C]:
        return _line(self._channel(shown), shown)

    def _end_if_over(self, line: Line[C]) -> None:
        """Closes a line that is not the newest any more and has no calls."""
        with self._lock:
            if line is self._newest or line.calls or line not in self._open_lines:
                return
            self._open_lines.remove(line)
        self._end(line.channel)

    @abstractmethod
    def _channel(self, shown: grpc.ChannelCredentials | None) -> C:
        """A channel that shows these."""

    @abstractmethod
    def _end(self, channel: C) -> None:
        """Closes a channel that has no calls."""


class BlockingLines(Lines[grpc.Channel]):
    """Of a synchronous client."""

    def _channel(self, shown: grpc.ChannelCredentials | None) -> grpc.Channel:
        return self._target.channel(shown)

    def _end(self, channel: grpc.Channel) -> None:
        channel.close()


class AioLines(Lines[grpc.aio.Channel]):
    """Of an asyncio client, in its event loop."""

    def __init__(self, target: Target, channel: grpc.aio.Channel | None = None) -> None:
        self._ending: set[asyncio.Task[None]] = set()
        super().__init__(target, channel)

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self.take_all():
            await channel.close()
        if self._ending:
            await asyncio.wait(self._ending)

    def _channel(self, shown: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        return self._target.aio_channel(shown)

    def _end(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _line(channel: C, shown: grpc.ChannelCredentials | None) -> Line[C]:
    stub: Any = LikeServiceStub(channel)
    return Line(channel, shown, stub, channel.unary_unary(HEALTH_CHECK))
