"""The connection to one node: sends batches while it stands, numbers them, and gives them up when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
import structlog

from likering.errors import InternalError, ShardUnavailable
from likering.serving import tracing
from likering.serving.channels import NOT_LET_IN, RENEWAL_GRACE, Channels
from likering.serving.status import DETAILS_KEY, from_rpc_error
from likering.serving.tracing import Metadata
from likering.serving.trail import trail_of_call
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from router.fragments import BatchLost
from router.lane import BatchNotSent, BatchRefused

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub

_log = structlog.get_logger(__name__)

R = TypeVar("R")

# What gRPC says of a call that it could not put on any connection.
_NEVER_CONNECTED = ("failed to connect to all addresses", "Failed to pick")
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

_RENEWAL_LOOK = 10.0
"""Seconds between two looks for a renewed certificate."""


class NodeClient:
    """One node, under whatever address its process of the newest generation has.

    ``on_connection(connected)`` is called when a connection begins or ends to stand.
    """

    def __init__(
        self,
        name: str,
        session_id: str,
        on_connection: Callable[[NodeClient, bool], None] | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.name = name
        self._session_id = session_id
        self._on_connection = on_connection
        self._channels = channels or Channels()
        self._tracing = tracing.active()
        self._connected = False
        self._address = ""
        self._generation = 0
        self._batch_number = 0
        self._lowest_batch_number = 1
        self._link: _Link | None = None
        self._successor: _Link | None = None
        """Has a renewed certificate, or is to a newer process, and takes over when it stands."""
        self._hurry = asyncio.Event()
        """Set when the links that have a successor are to wait for their calls no more."""
        self._retired: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return (
            f"<NodeClient {self.name} {self._address} {'connected' if self._connected else 'not connected'}>"
        )

    @property
    def connected(self) -> bool:
        """Whether a batch can be sent now."""
        return self._connected

    def connect(self, address: str, generation: int) -> None:
        """Makes ``address`` the node's, if it is not: calls in flight to the old one are given up.

        Not those to a process that has begun at the same address: the connection may be to that one already.
        """
        if (address, generation) == (self._address, self._generation):
            return
        if address == self._address and self._link is not None:
            _log.info("node has begun anew", node=self.name, address=address, generation=generation)
            self._generation = generation
            self._give_up_successor()  # it may be to the process of before
            self._renew()
            return
        if self._link is not None:
            _log.info("node has moved", node=self.name, address=address, generation=generation)
            self._retire(self._link)
        self._give_up_successor()
        self._hurry.set()
        self._hurry = asyncio.Event()
        self._address = address
        self._generation = generation
        self._set_connected(False)
        self._link = self._open()

    async def execute(
        self, request: shard.ExecuteRequest, timeout: float, metadata: Metadata = ()
    ) -> shard.ExecuteResponse:
        """Sends a batch. Raises BatchNotSent, BatchLost or BatchRefused."""
        link = self._standing_link()
        self._batch_number += 1
        number = self._batch_number
        request.session_id = self._session_id
        request.batch_number = number
        request.lowest_batch_number = self._lowest_batch_number
        try:
            return await link.stub.Execute(request, timeout=timeout, metadata=metadata or None)
        except grpc.aio.AioRpcError as error:
            # From here on the node refuses this batch should it still arrive.
            self._lowest_batch_number = max(self._lowest_batch_number, number + 1)
            _log.warning(
                "batch failed", node=self.name, batch=number, code=error.code().name, details=error.details()
            )
            raise _what_happened(error) from error
        except asyncio.CancelledError:
            self._lowest_batch_number = max(self._lowest_batch_number, number + 1)
            if link.given_up:
                raise BatchLost from None
            raise

    async def list_likers(self, request: shard.ListLikersRequest, timeout: float) -> shard.ListLikersResponse:
        """Sends the question. Raises BatchNotSent, BatchLost or BatchRefused."""
        link = self._standing_link()
        with _told_apart(link), self._span("ListLikers") as metadata:
            return await link.stub.ListLikers(request, timeout=timeout, metadata=metadata)

    async def list_liked_posts(
        self, request: shard.ListLikedPostsRequest, timeout: float
    ) -> shard.ListLikedPostsResponse:
        """Sends the question. Raises BatchNotSent, BatchLost or BatchRefused."""
        link = self._standing_link()
        with _told_apart(link), self._span("ListLikedPosts") as metadata:
            return await link.stub.ListLikedPosts(request, timeout=timeout, metadata=metadata)

    @contextmanager
    def _span(self, method: str) -> Iterator[Metadata | None]:
        """A span of a question that is asked for the current call, and what tells the node of it."""
        trail = trail_of_call.get()
        if self._tracing is None or trail is None:
            yield None
            return
        name = f"likering.shard.v1.ShardService/{method}"
        span = self._tracing.work(name, (trail.span,), {"likering.node": self.name}, remote=True)
        code = "CANCELLED"
        try:
            yield self._tracing.metadata(span)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise
        finally:
            span.end(code)

    def watch_counts(
        self, request: shard.WatchCountsRequest
    ) -> AsyncGenerator[shard.WatchCountsResponse, None]:
        """The stream, until the node ends it. Raises BatchNotSent, BatchLost or BatchRefused. To be closed."""
        return self._stream(lambda stub: stub.WatchCounts(request))

    async def update_watch(
        self, request: shard.UpdateWatchRequest, timeout: float
    ) -> shard.UpdateWatchResponse:
        """Sends the change. Raises BatchNotSent, BatchLost or BatchRefused."""
        link = self._standing_link()
        with _told_apart(link):
            return await link.stub.UpdateWatch(request, timeout=timeout)

    def stream_changes(
        self, request: shard.StreamChangesRequest
    ) -> AsyncGenerator[shard.StreamChangesResponse, None]:
        """The stream, until the node ends it. Raises BatchNotSent, BatchLost or BatchRefused. To be closed."""
        return self._stream(lambda stub: stub.StreamChanges(request))

    async def _stream(
        self, begin: Callable[[ShardServiceAsyncStub], grpc.aio.UnaryStreamCall[Any, R]]
    ) -> AsyncGenerator[R, None]:
        link = self._standing_link()
        stream = begin(link.stub)
        try:
            with _told_apart(link):
                async for response in stream:
                    yield response
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Ends the connection."""
        self._hurry.set()
        self._give_up_successor()
        if self._link is not None:
            self._retire(self._link)
            self._link = None
        self._set_connected(False)
        if self._retired:
            await asyncio.wait(self._retired)

    def _standing_link(self) -> _Link:
        link = self._link
        if link is None or not self._connected:
            raise BatchNotSent
        if link.version != self._channels.version:
            self._renew()
        return link

    def _open(self) -> _Link:
        link = _Link(self._channels, self._address)
        link.watch(lambda connected: self._changed(link, connected))
        return link

    def _changed(self, link: _Link, connected: bool) -> None:
        if link is self._successor and connected and self._link is not None:
            renewed = link.version != self._link.version
            _log.info(
                "connection renewed with another certificate" if renewed else "connection made anew",
                node=self.name,
            )
            self._retire(self._link, after=RENEWAL_GRACE)
            self._link, self._successor = link, None
        if link is self._link:
            self._set_connected(connected)
            if link.version != self._channels.version:
                self._renew()

    def _renew(self) -> None:
        """Connects anew, with the certificate as it is now, beside the connection that stands."""
        if self._successor is not None and self._successor.version != self._channels.version:
            self._give_up_successor()
        if self._successor is None:
            self._successor = self._open()

    def _give_up_successor(self) -> None:
        if self._successor is not None:
            self._retire(self._successor)
            self._successor = None

    def _retire(self, link: _Link, after: float = 0) -> None:
        """Closes a link, ``after`` some seconds that its calls have to end."""
        hurry = self._hurry

        async def close() -> None:
            if after:
                with suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), after)
            await link.close()

        task = asyncio.get_running_loop().create_task(close())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _set_connected(self, connected: bool) -> None:
        if connected is self._connected:
            return
        self._connected = connected
        _log.info(
            "node connected" if connected else "node not connected", node=self.name, address=self._address
        )
        if self._on_connection is not None:
            self._on_connection(self, connected)


class _Link:
    """One channel to one address, used until the node has another one."""

    def __init__(self, channels: Channels, address: str) -> None:
        self.given_up = False
        self.version = channels.version
        self._channel = channels.open(address)
        # Renewed certificates are looked for while nothing happens, too: until a call it may be too late.
        self._look = _RENEWAL_LOOK if channels.renewable else None
        self.stub = cast("ShardServiceAsyncStub", ShardServiceStub(self._channel))
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, on_connection: Callable[[bool], None]) -> None:
        """Connects, and again whenever the connection breaks; says which it is."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch(on_connection))

    async def _watch(self, on_connection: Callable[[bool], None]) -> None:
        while True:
            state = self._channel.get_state(try_to_connect=True)
            on_connection(state is grpc.ChannelConnectivity.READY)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look):
                    await self._channel.wait_for_state_change(state)

    async def close(self) -> None:
        """Gives up what is in flight."""
        self.given_up = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        await self._channel.close()


@contextmanager
def _told_apart(link: _Link) -> Iterator[None]:
    """Makes of an error what is known of the call then: BatchNotSent, BatchLost or BatchRefused."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _what_happened(error) from error
    except asyncio.CancelledError:
        if link.given_up:
            raise BatchLost from None
        raise


def _what_happened(error: grpc.aio.AioRpcError) -> Exception:
    code = error.code()
    if code in NOT_LET_IN:
        return BatchRefused(ShardUnavailable())
    if any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
        return BatchRefused(from_rpc_error(error))
    if code is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_NEVER_CONNECTED):
        return BatchNotSent()
    if code in _BROKEN:
        return BatchLost()
    # No answer of a servicer: a batch too large, an unknown method. A bug, here or there.
    return BatchRefused(InternalError())
