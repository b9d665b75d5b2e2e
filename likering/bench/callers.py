"""Callers: how the load generator makes a unary call. A light one (``http2``), and grpcio's own asyncio client."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol

import grpc
import grpc.aio

from likering.bench.choices import CallerKind
from likering.bench.http2 import DEADLINE_EXCEEDED, UNAVAILABLE, Done, Http2Connection, PendingCall

RECONNECT_AFTER = 0.1


class Caller(Protocol):
    """Makes unary calls of serialised messages to one address."""

    def call(self, method: str, request: bytes, done: Done) -> None:
        """Starts a call of ``/package.Service/Method``. ``done`` is called exactly once, whatever happens."""

    async def close(self) -> None:
        """Ends all connections."""


class LightCaller:
    """Spreads calls over several HTTP/2 connections, and opens lost ones again."""

    def __init__(self, address: str, *, connections: int = 4, timeout: float = 10.0) -> None:
        """``address`` is host:port; ``timeout`` (seconds) is each call's deadline."""
        host, _, port = address.rpartition(":")
        self._host, self._port, self._address = host, int(port), address
        self._timeout = timeout
        self._wanted = connections
        self._connections: list[Http2Connection] = []
        self._waiting: deque[PendingCall] = deque()
        self._turn = 0
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<LightCaller {self._address} {len(self._connections)} connections {len(self._waiting)} waiting>"
        )

    async def connect(self) -> None:
        """Opens the connections. Raises OSError when nobody listens there."""
        for _ in range(self._wanted):
            self._connections.append(await self._open())
        self._keeper = asyncio.create_task(self._keep())

    def call(self, method: str, request: bytes, done: Done) -> None:
        self._call(PendingCall(monotonic() + self._timeout, method, request, done))

    def _call(self, call: PendingCall) -> None:
        for _ in range(len(self._connections)):
            self._turn = (self._turn + 1) % len(self._connections)
            connection = self._connections[self._turn]
            if connection.open and connection.free_streams > 0:
                connection.call(call)
                return
        if any(connection.open for connection in self._connections):
            # All streams are in use, which is the server's limit: wait for one, as every gRPC client does.
            self._waiting.append(call)
        else:
            # Not from here: the caller may start its next call in done().
            asyncio.get_running_loop().call_later(
                RECONNECT_AFTER, call.done, UNAVAILABLE, b"", "not connected"
            )

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for connection in self._connections:
            connection.close()
        await asyncio.gather(*(connection.lost.wait() for connection in self._connections))
        self._connections.clear()

    async def _open(self) -> Http2Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Http2Connection(self._address, self._timeout, self._freed, self._waiting.append),
            self._host,
            self._port,
        )
        await asyncio.wait_for(connection.ready, self._timeout)
        return connection

    def _freed(self) -> None:
        while self._waiting and any(each.open and each.free_streams > 0 for each in self._connections):
            self._call(self._waiting.popleft())

    async def _keep(self) -> None:
        """Ends late calls and opens lost connections again."""
        while True:
            await asyncio.sleep(RECONNECT_AFTER)
            now = monotonic()
            while self._waiting and self._waiting[0].deadline <= now:
                self._waiting.popleft().done(DEADLINE_EXCEEDED, b"", "no free stream within the deadline")
            for place, connection in enumerate(self._connections):
                connection.expire(now)
                if not connection.open:
                    try:
                        self._connections[place] = await self._open()
                    except (OSError, TimeoutError):
                        continue
            self._freed()


class GrpcCaller:
    """grpcio's asyncio client: a task per call, about five times the CPU of the light one."""

    def __init__(self, address: str, *, connections: int = 4, timeout: float = 10.0) -> None:
        """``address`` is anything grpcio takes; ``timeout`` (seconds) is each call's deadline."""
        self._timeout = timeout
        self._channels = [
            grpc.aio.insecure_channel(
                # A difference in the options gives each channel a connection of its own.
                address, options=[("grpc.use_local_subchannel_pool", 1), ("likering.connection", index)]
            )
            for index in range(connections)
        ]  # fmt: skip
        self._methods: dict[str, list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]] = {}
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Opens the connections. Raises OSError when that takes longer than the timeout."""
        try:
            await asyncio.wait_for(
                asyncio.gather(*(channel.channel_ready() for channel in self._channels)), self._timeout
            )
        except TimeoutError:
            await self.close()
            raise ConnectionError("nobody answers there") from None

    def call(self, method: str, request: bytes, done: Done) -> None:
        callables = self._methods.get(method)
        if callables is None:
            callables = self._methods[method] = [channel.unary_unary(method) for channel in self._channels]
        self._turn = (self._turn + 1) % len(callables)
        task = asyncio.get_running_loop().create_task(self._call(callables[self._turn], request, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], request: bytes, done: Done
    ) -> None:
        try:
            response = await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            done(error.code().value[0], b"", error.details() or "")
        else:
            done(0, response, "")

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def open_caller(kind: CallerKind, address: str, *, connections: int, timeout: float) -> Caller:
    """A connected caller. Raises OSError when nobody answers at the address."""
    caller: LightCaller | GrpcCaller
    if kind is CallerKind.LIGHT:
        caller = LightCaller(address, connections=connections, timeout=timeout)
    else:
        caller = GrpcCaller(address, connections=connections, timeout=timeout)
    await caller.connect()
    return caller
