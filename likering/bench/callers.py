"""Callers: how the load generator makes a unary call. A light one (``http2``), and grpcio's own asyncio client."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Protocol

import grpc
import grpc.aio

from likering.bench.choices import CallerKind
from likering.bench.http2 import DEADLINE_EXCEEDED, UNAVAILABLE, Done, Http2Connection, PendingCall
from likering.client.credentials import CredentialFiles

RECONNECT_AFTER = 0.1
NOTHING: Final = CredentialFiles()


class Caller(Protocol):
    """Makes unary calls of serialised messages to one address."""

    def call(self, method: str, request: bytes, done: Done) -> None:
        """Starts a call of ``/package.Service/Method``. ``done`` is called exactly once, whatever happens."""

    async def close(self) -> None:
        """Ends all connections."""


class LightCaller:
    """Spreads calls over several HTTP/2 connections, and opens lost ones again."""

    def __init__(
        self,
        address: str,
        *,
        connections: int = 4,
        timeout: float = 10.0,
        shown: CredentialFiles = NOTHING,
    ) -> None:
        """``address`` is host:port; ``timeout`` (seconds) is each call's deadline."""
        host, _, port = address.rpartition(":")
        self._host, self._port, self._address = host, int(port), address
        self._timeout = timeout
        self._tls = _tls(shown)
        self._token = shown.bearer()
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
            lambda: Http2Connection(
                self._address,
                self._timeout,
                self._freed,
                self._waiting.append,
                scheme="http" if self._tls is None else "https",
                token=self._token() if self._token is not None else "",
            ),
            self._host,
            self._port,
            ssl=self._tls,
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

    def __init__(
        self,
        address: str,
        *,
        connections: int = 4,
        timeout: float = 10.0,
        shown: CredentialFiles = NOTHING,
    ) -> None:
        """``address`` is anything grpcio takes; ``timeout`` (seconds) is each call's deadline."""
        self._timeout = timeout
        self._token = shown.bearer()
        # A difference in the options gives each channel a connection of its own.
        self._channels = [
            open_channel(
                address, shown, (("grpc.use_local_subchannel_pool", 1), ("likering.connection", index))
            )
            for index in range(connections)
        ]
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
            metadata = bearer_metadata(self._token)
            response = await method(request, timeout=self._timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            done(error.code().value[0], b"", error.details() or "")
        else:
            done(0, response, "")

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def open_caller(
    kind: CallerKind, address: str, *, connections: int, timeout: float, shown: CredentialFiles = NOTHING
) -> Caller:
    """A connected caller. Raises OSError when nobody answers at the address, or what is shown cannot be read."""
    caller: LightCaller | GrpcCaller
    if kind is CallerKind.LIGHT:
        caller = LightCaller(address, connections=connections, timeout=timeout, shown=shown)
    else:
        caller = GrpcCaller(address, connections=connections, timeout=timeout, shown=shown)
    await caller.connect()
    return caller


def open_channel(
    address: str, shown: CredentialFiles, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Channel:
    """A channel of grpcio that shows what is in the files."""
    tls = shown.tls()
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls, options=options)


def bearer_metadata(token: Callable[[], str] | None) -> tuple[tuple[str, str], ...]:
    """What goes with a call."""
    return (("authorization", f"Bearer {token()}"),) if token is not None else ()


def _tls(shown: CredentialFiles) -> ssl.SSLContext | None:
    """The same for connections of asyncio. It verifies as gRPC does, and asks for HTTP/2."""
    if shown.ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(shown.ca)
    if shown.certificate is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    context.set_alpn_protocols(["h2"])
    return context
