"""The wrapper around every method of a service, over real gRPC: calls with one response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest

from likering.errors import DeadlineExceeded, FieldViolation, InvalidArgument, RouterOverloaded
from likering.serving import logging
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server, ServerSettings
from likering.serving.status import from_rpc_error
from likering.topology.store import NodeUnknown
from likering.v1 import like_service_pb2 as api
from tests.parts.statuses import details_of
from tests.parts.stubs import like_stub

pytestmark = pytest.mark.usefixtures("logging_as_at_first")

SERVICE = api.DESCRIPTOR.services_by_name["LikeService"]
Behaviour = Callable[[Any, Call], Awaitable[Any]]


class Servicer:
    """Every method does what the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.calls: list[Call] = []

    async def _run(self, request: Any, call: Call) -> Any:
        self.calls.append(call)
        return await self.behaviour(request, call)

    Like = Unlike = HasLiked = GetLikeCount = MutateLikes = GetLikeSummaries = FilterLikers = ListLikers = (
        _run
    )

    ListLikedPosts = _run

    async def WatchLikeCounts(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield await self._run(request, call)

    async def StreamLikeEvents(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        yield await self._run(request, call)


@asynccontextmanager
async def serving(behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[Servicer, grpc.aio.Channel]]:
    servicer = Servicer(behaviour)
    server = Server([ServiceHandlers(SERVICE, servicer, **options)], ServerSettings())
    await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield servicer, channel
    await server.drain(delay=0, grace=1)


async def answer(request: Any, call: Call) -> api.LikeResponse:
    return api.LikeResponse(outcome=api.MUTATION_OUTCOME_CHANGED)


def raising(error: Exception) -> Behaviour:
    async def behaviour(request: Any, call: Call) -> Any:
        raise error

    return behaviour


async def test_the_servicer_is_told_the_callers_request_id_and_deadline() -> None:
    async with serving(answer) as (servicer, channel):
        await like_stub(channel).Like(api.LikeRequest(), timeout=5, metadata=(("x-request-id", "caller-7"),))
        (call,) = servicer.calls
        assert call.request_id == "caller-7"
        # gRPC rounds a timeout up to two or three digits.
        assert 3 < call.deadline - monotonic() < 5.1


async def test_a_call_without_request_id_and_deadline_is_given_both() -> None:
    async with serving(answer, default_deadline=7.0) as (servicer, channel):
        await like_stub(channel).Like(api.LikeRequest())
        await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-request-id", "x" * 129),))
        first, second = servicer.calls
        assert first.request_id
        assert second.request_id not in (first.request_id, "x" * 129)
        assert 6 < first.deadline - monotonic() <= 7


async def test_an_error_becomes_a_status_with_details() -> None:
    violation = FieldViolation("post_id", "ID_EMPTY", "an id has at least one byte")
    async with serving(raising(InvalidArgument.of([violation]))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-request-id", "r1"),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(caught.value)
    assert details["ErrorInfo"].reason == "ID_EMPTY"
    assert details["ErrorInfo"].domain == "likering"
    assert details["RequestInfo"].request_id == "r1"
    assert details["BadRequest"].field_violations[0].field == "post_id"
    assert from_rpc_error(caught.value).violations == (violation,)


async def test_a_retry_delay_is_told() -> None:
    async with serving(raising(RouterOverloaded(retry_after=0.25))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(caught.value).retry_after == 0.25


async def test_more_violations_than_metadata_can_carry_are_left_out() -> None:
    violations = [
        FieldViolation(f"user_ids[{index}]", "ID_TOO_LONG", "an id has at most 128 bytes" * 2)
        for index in range(1000)
    ]
    async with serving(raising(InvalidArgument.of(violations))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).FilterLikers(api.FilterLikersRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(from_rpc_error(caught.value).violations) == 32


async def test_a_message_longer_than_metadata_can_carry_is_cut() -> None:
    """It names what the caller has sent; in the status each of these bytes takes three characters."""
    async with serving(raising(NodeUnknown.of("é" * 8192, []))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    message = from_rpc_error(caught.value).message
    assert caught.value.details() == message
    assert message.startswith("No node éé")
    assert message.endswith("é…")
    assert 1000 < len(message.encode()) < 1030


async def test_a_bug_is_logged_with_its_trace_and_told_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("test", "info")
    async with serving(raising(RuntimeError("host db-7, select secret"))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-request-id", "r2"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    assert "RuntimeError" not in str(caught.value)
    assert details_of(caught.value)["ErrorInfo"].reason == "INTERNAL"
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "by a bug" in line]
    assert "select secret" in line["exception"]
    assert line["request_id"] == "r2"


async def test_an_answer_that_cannot_be_written_is_a_bug_too() -> None:
    async def behaviour(request: Any, call: Call) -> Any:
        return None

    async with serving(behaviour) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def raw(channel: grpc.aio.Channel, method: str, data: bytes) -> bytes:
    """A call with bytes that no client would write."""
    call: Any = channel.unary_unary(f"/likering.v1.LikeService/{method}")
    return bytes(await call(data))


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7fshort", b"\x0b\x0b\x0b"])
async def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    async with serving(answer) as (servicer, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(channel, "Like", data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).reason == "MESSAGE_MALFORMED"
    assert not servicer.calls


async def test_a_string_that_is_not_utf8_is_named() -> None:
    data = api.MutateLikesRequest(
        mutations=[api.LikeMutation(user_id="u", post_id="p"), api.LikeMutation(user_id="u", post_id="?!")]
    ).SerializeToString()
    async with serving(answer) as (servicer, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(channel, "MutateLikes", data.replace(b"?!", b"\xc3\x28"))
    error = from_rpc_error(caught.value)
    assert error.reason == "ID_NOT_PRINTABLE"
    assert [violation.field for violation in error.violations] == ["mutations[1].post_id"]
    assert not servicer.calls


async def test_a_servicer_that_refuses_nul_gets_one_for_each_string_that_is_not_utf8() -> None:
    seen: list[api.GetLikeSummariesRequest] = []

    async def behaviour(request: Any, call: Call) -> Any:
        seen.append(request)
        return api.GetLikeSummariesResponse()

    data = api.GetLikeSummariesRequest(post_ids=["p", "?!", "q"], viewer_user_id="!?").SerializeToString()
    async with serving(behaviour, nul_for_undecodable=True) as (_, channel):
        await raw(channel, "GetLikeSummaries", data.replace(b"?!", b"\xc3\x28").replace(b"!?", b"\xff\xff"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(channel, "GetLikeSummaries", b"\xff")
    assert list(seen[0].post_ids) == ["p", "\0", "q"]
    assert seen[0].viewer_user_id == "\0"
    assert from_rpc_error(caught.value).reason == "MESSAGE_MALFORMED"


async def test_a_cancelled_call_ends_in_the_servicer_and_is_no_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.configure("test", "info")
    entered, ended = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, call: Call) -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(behaviour) as (_, channel):
        call = like_stub(channel).Like(api.LikeRequest())
        waiting = asyncio.ensure_future(call)
        await entered.wait()
        call.cancel()
        await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert "bug" not in capsys.readouterr().err


async def test_the_callers_deadline_cancels_the_servicer() -> None:
    ended = asyncio.Event()

    async def behaviour(request: Any, call: Call) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(behaviour) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await like_stub(channel).Like(api.LikeRequest(), timeout=0.1)
        await ended.wait()
    assert isinstance(from_rpc_error(caught.value), DeadlineExceeded)


async def test_slow_and_failed_calls_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("test", "info")
    async with serving(answer, slow_call=0.0) as (_, channel):
        await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-request-id", "slow-1"),))
    async with serving(raising(RouterOverloaded()), slow_call=60) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await like_stub(channel).Like(api.LikeRequest(), metadata=(("x-request-id", "failed-1"),))
    slow, failed = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "request_id" in line]
    assert (slow["event"], slow["method"], slow["request_id"], slow["code"]) == (
        "slow call",
        "likering.v1.LikeService/Like",
        "slow-1",
        "OK",
    )
    assert slow["seconds"] >= 0
    assert (failed["event"], failed["code"], failed["reason"], failed["request_id"]) == (
        "failed call",
        "RESOURCE_EXHAUSTED",
        "ROUTER_OVERLOADED",
        "failed-1",
    )


async def test_a_flood_of_failed_calls_is_no_flood_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("test", "info")
    async with serving(raising(RouterOverloaded())) as (_, channel):
        stub = like_stub(channel)
        await asyncio.gather(*(stub.Like(api.LikeRequest()) for _ in range(300)), return_exceptions=True)
    assert 50 <= capsys.readouterr().err.count("failed call") < 250


def test_a_servicer_that_lacks_a_method_is_refused() -> None:
    class Lacking:
        async def Like(self, request: Any, call: Call) -> Any: ...

    with pytest.raises(TypeError, match="no async method Unlike"):
        ServiceHandlers(SERVICE, Lacking())


def test_a_method_that_is_not_async_is_refused() -> None:
    class Blocking(Servicer):
        def Like(self, request: Any, call: Call) -> Any: ...

    with pytest.raises(TypeError, match="no async method Like"):
        ServiceHandlers(SERVICE, Blocking(answer))
