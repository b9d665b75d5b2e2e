"""The server as every process runs it: limits, health, reflection, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from likering.serving.channels import internal_channel_options
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.health import LIVENESS
from likering.serving.server import ListenFailed, Server, ServerSettings
from likering.v1 import like_service_pb2 as api
from tests.parts.stubs import health, like_stub

NAME = "likering.v1.LikeService"


class Servicer:
    """Answers Like once it is told to."""

    def __init__(self) -> None:
        self.entered = 0
        self.release = asyncio.Event()

    async def _run(self, request: Any, call: Call) -> Any:
        self.entered += 1
        await self.release.wait()
        return api.LikeResponse(outcome=api.MUTATION_OUTCOME_CHANGED)

    Like = Unlike = HasLiked = GetLikeCount = MutateLikes = GetLikeSummaries = FilterLikers = ListLikers = (
        _run
    )

    ListLikedPosts = _run

    async def WatchLikeCounts(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield await self._run(request, call)

    async def StreamLikeEvents(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield await self._run(request, call)

    async def has_entered(self, calls: int) -> None:
        async with asyncio.timeout(30):
            while self.entered < calls:  # noqa: ASYNC110 - counts, which no event does
                await asyncio.sleep(0.005)


def server_of(servicer: Servicer, **settings: Any) -> Server:
    return Server(
        [ServiceHandlers(api.DESCRIPTOR.services_by_name["LikeService"], servicer)],
        ServerSettings(**settings),
    )


@asynccontextmanager
async def started(servicer: Servicer, **settings: Any) -> AsyncIterator[Server]:
    """A server that listens, and is gone afterwards: gRPC hangs at the end of a process that left one behind."""
    server = server_of(servicer, **settings)
    await server.start("127.0.0.1:0")
    try:
        yield server
    finally:
        servicer.release.set()
        await server.drain(delay=0, grace=1)


def connection(server: Server) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])


async def test_health_says_not_serving_until_told_otherwise() -> None:
    async with started(Servicer()) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert await health(channel) == "NOT_SERVING"
        assert await health(channel, NAME) == "NOT_SERVING"
        await server.set_serving(True)
        assert await health(channel) == "SERVING"
        assert await health(channel, NAME) == "SERVING"
        await server.set_serving(False)
        assert await health(channel, NAME) == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_liveness_is_served_while_nothing_else_is() -> None:
    """Whoever restarts what hangs must not restart what waits."""
    async with started(Servicer()) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert await health(channel, LIVENESS) == "SERVING"
        await server.set_serving(True)
        await server.set_serving(False)
        assert await health(channel, LIVENESS) == "SERVING"


async def test_a_port_of_its_own_has_the_same_health_and_nothing_else() -> None:
    server = Server([])
    await server.start("127.0.0.1:0", health_listen="127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(server.health_address) as channel:
            assert [await health(channel), await health(channel, LIVENESS)] == ["NOT_SERVING", "SERVING"]
            await server.set_serving(True)
            assert await health(channel) == "SERVING"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await like_stub(channel).GetLikeCount(api.GetLikeCountRequest(post_id="p"))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.drain(delay=0, grace=1)


async def test_reflection_lists_the_services_and_describes_them() -> None:
    async with started(Servicer()) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = ServerReflectionStub(cast(Any, channel))
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        ]
        listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert {service.name for service in listed.list_services_response.service} == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto


async def test_a_drain_fails_no_call_in_progress() -> None:
    servicer = Servicer()
    async with started(servicer) as server, grpc.aio.insecure_channel(server.address) as channel:
        await server.set_serving(True)
        calls = [asyncio.ensure_future(like_stub(channel).Like(api.LikeRequest())) for _ in range(20)]
        await servicer.has_entered(20)
        draining = asyncio.create_task(server.drain(delay=0.05, grace=10))
        while await health(channel) != "NOT_SERVING":
            pass
        assert not draining.done()
        servicer.release.set()
        responses = await asyncio.gather(*calls)
        await draining
    assert [response.outcome for response in responses] == [api.MUTATION_OUTCOME_CHANGED] * 20


async def test_a_drain_returns_only_after_the_last_line_of_a_servicer() -> None:
    ended = False

    class Lingering(Servicer):
        async def Like(self, request: Any, call: Call) -> Any:
            nonlocal ended
            self.entered += 1
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # ending takes a while
                ended = True

    servicer = Lingering()
    async with started(servicer) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = asyncio.ensure_future(like_stub(channel).Like(api.LikeRequest()))
        await servicer.has_entered(1)
        await server.drain(delay=0, grace=0.2)
        assert ended
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_drain_does_not_wait_for_those_who_watch_health() -> None:
    async with started(Servicer()) as server, grpc.aio.insecure_channel(server.address) as channel:
        await server.set_serving(True)
        stub: Any = HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        seen = [await watch.read()]
        async with asyncio.timeout(5):
            await server.drain(delay=0.1, grace=60)
            while (message := await watch.read()) is not grpc.aio.EOF:
                seen.append(message)
    assert [message.status for message in seen] == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]


async def test_a_drain_does_not_wait_for_calls_that_no_handler_has() -> None:
    """As gRPC leaves them behind when they come in the instant of its shutdown; here the request never comes."""

    async def nothing() -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""

    servicer = Servicer()
    async with started(servicer) as server, connection(server) as channel:
        method: Any = channel.stream_unary(f"/{NAME}/Like")
        unsent = method(nothing(), timeout=60)
        await unsent.wait_for_connection()
        handled = asyncio.ensure_future(like_stub(channel).Like(api.LikeRequest()))
        await servicer.has_entered(1)
        draining = asyncio.create_task(server.drain(delay=0, grace=60))
        async with asyncio.timeout(30):
            # Longer than it bears calls without a handler: one in progress counts.
            done, _ = await asyncio.wait({draining}, timeout=3)
            assert not done
            servicer.release.set()
            assert (await handled).outcome == api.MUTATION_OUTCOME_CHANGED
            await draining
        assert await unsent.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_twice_is_draining_once() -> None:
    async with started(Servicer()) as server:
        await server.drain(delay=0, grace=1)
        await server.drain(delay=0, grace=0)


async def test_a_taken_port_is_a_sentence() -> None:
    first, second = server_of(Servicer()), server_of(Servicer())
    await first.start("127.0.0.1:0")
    with pytest.raises(ListenFailed, match=rf"^Cannot listen on {first.address}: the port is taken"):
        await second.start(first.address)
    await first.drain(delay=0, grace=1)


async def test_processes_may_share_a_port() -> None:
    first, second = server_of(Servicer(), shared_port=True), server_of(Servicer(), shared_port=True)
    await first.start("127.0.0.1:0")
    await second.start(first.address)
    assert second.address == first.address
    await first.drain(delay=0, grace=1)
    await second.drain(delay=0, grace=1)


async def test_an_oversized_message_is_refused_and_the_connection_lives() -> None:
    servicer = Servicer()
    servicer.release.set()
    async with (
        started(servicer, max_message_bytes=1000) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest(user_id="u" * 1001))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert servicer.entered == 0
        await like_stub(channel).Like(api.LikeRequest(user_id="u" * 900))


async def test_oversized_metadata_is_refused() -> None:
    servicer = Servicer()
    servicer.release.set()
    async with started(servicer) as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-large", "x" * 9000),))
        assert servicer.entered == 0


async def test_many_calls_of_several_connections_are_in_progress_at_once() -> None:
    """With gRPC's defaults some of them are cancelled at random, with a limit of 100 streams most are refused."""
    servicer = Servicer()
    async with started(servicer) as server, connection(server) as first, connection(server) as second:
        calls = [
            asyncio.ensure_future(like_stub(channel).Like(api.LikeRequest()))
            for _ in range(1100)
            for channel in (first, second)
        ]
        await servicer.has_entered(len(calls))
        servicer.release.set()
        await asyncio.gather(*calls)


async def test_a_connection_that_opens_and_resets_calls_fails_no_call_of_others() -> None:
    servicer = Servicer()
    servicer.release.set()
    loop = asyncio.get_running_loop()
    async with started(servicer) as server, connection(server) as hostile, connection(server) as friendly:
        end = loop.time() + 2

        async def reset() -> None:
            while loop.time() < end:
                calls = [like_stub(hostile).Like(api.LikeRequest()) for _ in range(100)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                for call in calls:
                    call.cancel()

        async def call() -> int:
            calls = 0
            while loop.time() < end:
                await like_stub(friendly).Like(api.LikeRequest(), timeout=20)
                calls += 1
            return calls

        attack = asyncio.gather(*(reset() for _ in range(5)))
        assert sum(await asyncio.gather(*(call() for _ in range(8)))) >= 8
        await attack


async def test_an_old_connection_is_replaced_without_failing_a_call() -> None:
    servicer = Servicer()
    servicer.release.set()
    loop = asyncio.get_running_loop()
    async with (
        started(servicer, max_connection_age=0.2, max_connection_age_grace=5.0) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub, end = like_stub(channel), loop.time() + 1.5

        async def caller() -> int:
            calls = 0
            while loop.time() < end:
                await stub.Like(api.LikeRequest(), timeout=5)
                calls += 1
            return calls

        assert sum(await asyncio.gather(*(caller() for _ in range(16)))) > 100


async def test_keepalive_pings_of_an_idle_channel_are_no_offence() -> None:
    async with (
        started(Servicer()) as server,
        grpc.aio.insecure_channel(server.address, options=internal_channel_options()) as channel,
    ):
        await health(channel)
        changed = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        # Longer than the three pings after which a server that forbids them hangs up.
        done, _ = await asyncio.wait({changed}, timeout=4.5)
        assert not done
        changed.cancel()
