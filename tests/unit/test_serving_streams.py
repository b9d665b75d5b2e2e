"""The wrapper around every method of a service, over real gRPC: streams, and how a drain ends them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest

from likering.admin.v1 import ring_service_pb2 as admin
from likering.errors import DeadlineExceeded, RouterOverloaded
from likering.serving import logging
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server, ServerSettings
from likering.serving.status import from_rpc_error
from tests.parts.statuses import details_of
from tests.parts.stubs import ring_stub

pytestmark = pytest.mark.usefixtures("logging_as_at_first")

SERVICE = admin.DESCRIPTOR.services_by_name["RingService"]
StreamBehaviour = Callable[[Any, Call], AsyncGenerator[Any, None]]


class Streamer:
    """Its streams do what the test says; its other methods are not called."""

    def __init__(self, behaviour: StreamBehaviour) -> None:
        self.behaviour = behaviour
        self.calls: list[Call] = []

    async def WatchTopology(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        self.calls.append(call)
        async for response in self.behaviour(request, call):
            yield response

    WatchMoves = WatchTopology

    async def _unused(self, request: Any, call: Call) -> Any: ...

    GetTopology = PlanResize = ApplyPlan = ListMoves = PauseMoves = ResumeMoves = CancelMoves = _unused
    SetMoveLimits = RevertSlot = ListResizes = AddNode = DrainNode = UndrainNode = RemoveNode = _unused
    RemoveReplica = CheckTopology = _unused


@asynccontextmanager
async def streaming(
    behaviour: StreamBehaviour,
) -> AsyncIterator[tuple[Streamer, ServiceHandlers, Server, grpc.aio.Channel]]:
    streamer = Streamer(behaviour)
    handlers = ServiceHandlers(SERVICE, streamer)
    server = Server([handlers], ServerSettings())
    await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield streamer, handlers, server, channel
    finally:
        await server.drain(delay=0, grace=1)


def version(number: int) -> admin.WatchTopologyResponse:
    return admin.WatchTopologyResponse(topology=admin.Topology(version=number))


async def endless(request: Any, call: Call) -> AsyncGenerator[Any, None]:
    """One response, and then nothing."""
    yield version(1)
    await asyncio.Event().wait()


async def test_a_stream_is_what_the_servicer_yields() -> None:
    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        for number in range(3):
            yield version(number)

    async with streaming(behaviour) as (streamer, handlers, _, channel):
        watching = ring_stub(channel).WatchTopology(
            admin.WatchTopologyRequest(), metadata=(("x-request-id", "watcher-1"),)
        )
        assert [response.topology.version async for response in watching] == [0, 1, 2]
        assert await watching.code() is grpc.StatusCode.OK
        async with asyncio.timeout(5):
            await handlers.idle()
    (call,) = streamer.calls
    assert call.request_id == "watcher-1"
    assert call.deadline == math.inf


async def test_a_stream_has_the_callers_deadline_if_there_is_one() -> None:
    async with streaming(endless) as (streamer, _, _, channel):
        watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest(), timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [response async for response in watching]
        (call,) = streamer.calls
        assert call.request_id
        assert call.deadline - monotonic() <= 0.3
    assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)


async def test_an_error_amid_a_stream_becomes_a_status_with_details() -> None:
    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield version(1)
        raise RouterOverloaded(retry_after=0.25)

    async with streaming(behaviour) as (_, _, _, channel):
        watching = ring_stub(channel).WatchTopology(
            admin.WatchTopologyRequest(), metadata=(("x-request-id", "s1"),)
        )
        assert await watching.read() == version(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(caught.value).reason == "ROUTER_OVERLOADED"
    assert details_of(caught.value)["RequestInfo"].request_id == "s1"


async def test_a_bug_amid_a_stream_is_logged_and_told_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield version(1)
        raise TimeoutError("host db-7, select secret")

    logging.configure("test", "info")
    async with streaming(behaviour) as (_, _, _, channel):
        watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [response async for response in watching]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "by a bug" in line]
    assert "select secret" in line["exception"]


async def test_a_stream_of_bytes_that_are_no_message_is_refused() -> None:
    """The file of this service's messages has a map, of which such bytes are none either."""
    async with streaming(endless) as (streamer, _, _, channel):
        watching: Any = channel.unary_stream("/likering.admin.v1.RingService/WatchMoves")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching(b"\xff").read()
    assert from_rpc_error(caught.value).reason == "MESSAGE_MALFORMED"
    assert not streamer.calls


async def test_a_cancelled_stream_ends_in_the_servicer_and_is_no_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.configure("test", "info")
    ended = asyncio.Event()

    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        try:
            yield version(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with streaming(behaviour) as (_, handlers, _, channel):
        watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
        await watching.read()
        assert handlers.in_progress == 1
        watching.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
            await handlers.idle()
    assert "bug" not in capsys.readouterr().err


async def test_a_drain_ends_streams_and_waits_for_their_last_lines() -> None:
    ended = False

    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        nonlocal ended
        try:
            yield version(1)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)  # ending takes a while
            ended = True

    async with streaming(behaviour) as (_, handlers, server, channel):
        watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
        await watching.read()
        async with asyncio.timeout(5):
            await server.drain(delay=0, grace=60)
        assert ended
        assert not handlers.in_progress
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "The server is stopping"


async def test_a_stream_that_begins_while_the_server_drains_ends_at_once() -> None:
    async with streaming(endless) as (_, handlers, _, channel):
        handlers.end_streams()
        handlers.end_streams()  # as a second drain does
        async with asyncio.timeout(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [
                    response
                    async for response in ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
                ]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_ends_a_stream_that_never_waits() -> None:
    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        while True:
            yield version(1)

    async with streaming(behaviour) as (_, handlers, server, channel):
        watching = aiter(ring_stub(channel).WatchTopology(admin.WatchTopologyRequest()))
        await anext(watching)
        draining = asyncio.create_task(server.drain(delay=0, grace=60))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [response async for response in watching]
        async with asyncio.timeout(5):
            await draining
        assert not handlers.in_progress
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_cuts_off_a_watcher_that_does_not_read() -> None:
    """After the grace: what it does not take cannot be followed by a status."""

    async def behaviour(request: Any, call: Call) -> AsyncGenerator[Any, None]:
        while True:
            yield admin.WatchTopologyResponse(topology=admin.Topology(cluster_id="x" * 100_000))

    async with streaming(behaviour) as (_, handlers, server, channel):
        watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
        await watching.read()
        async with asyncio.timeout(10):
            await server.drain(delay=0, grace=0.5)
        assert not handlers.in_progress


def test_a_stream_that_is_no_generator_is_refused() -> None:
    class Lacking(Streamer):
        async def WatchMoves(self, request: Any, call: Call) -> Any: ...  # type: ignore[override]

    with pytest.raises(TypeError, match="no async generator WatchMoves"):
        ServiceHandlers(SERVICE, Lacking(endless))
