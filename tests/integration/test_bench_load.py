"""The load generator against real gRPC servers: limits of the server, its errors, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from likering.bench.callers import Caller, open_caller
from likering.bench.choices import CallerKind
from likering.bench.load import Load, run_load, run_paced
from likering.bench.processes import LoadFailed, run_processes
from likering.bench.workload import Op, Workload, parse_mix
from likering.client.credentials import CredentialFiles
from likering.dev.authority import Authority
from likering.security.certificates import Certificates
from likering.v1 import like_service_pb2 as pb

Handler = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
LIKE = "/likering.v1.LikeService/Like"


@asynccontextmanager
async def serving(
    handlers: dict[str, Handler],
    options: list[tuple[str, int]] | None = None,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    server = grpc.aio.server(options=options)
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("likering.v1.LikeService", methods)]
    )
    address = f"127.0.0.1:{port}"
    port = (
        server.add_insecure_port(address)
        if credentials is None
        else server.add_secure_port(address, credentials)
    )
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(0)


async def call(caller: Caller, request: bytes, method: str = LIKE) -> tuple[int, bytes, str]:
    answer: asyncio.Future[tuple[int, bytes, str]] = asyncio.get_running_loop().create_future()
    caller.call(method, request, lambda *done: answer.set_result(done))
    return await answer


@pytest.fixture(params=list(CallerKind))
def kind(request: pytest.FixtureRequest) -> CallerKind:
    return CallerKind(request.param)


@asynccontextmanager
async def calling(
    kind: CallerKind, address: str, *, connections: int = 1, timeout: float = 10.0
) -> AsyncIterator[Caller]:
    caller = await open_caller(kind, address, connections=1, timeout=timeout)
    try:
        yield caller
    finally:
        await caller.close()


async def test_requests_and_answers_of_all_sizes_arrive(kind: CallerKind) -> None:
    """Larger than a frame and than a window, in both directions, and many at once."""

    async def echo(request: bytes, context: object) -> bytes:
        return request

    limit = [("grpc.max_receive_message_length", 4_000_000)]
    async with serving({"Like": echo}, limit) as (address, _), calling(kind, address) as caller:
        requests = [
            bytes([number % 256]) * size for number, size in enumerate([0, 1, 16_384, 65_535, 700_000] * 8)
        ]
        answers = await asyncio.gather(*(call(caller, request) for request in requests))
        assert [(code, answer) for code, answer, _ in answers] == [(0, request) for request in requests]


async def test_calls_wait_for_the_servers_streams() -> None:
    """A server that takes three calls at a time gets no more than three, and all are answered.

    Only the light caller: of grpcio's own client this server, which counts a stream a little longer than its client,
    refuses some calls.
    """
    now = highest = 0

    async def count(request: bytes, context: object) -> bytes:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0)
        now -= 1
        return request

    limit = [("grpc.max_concurrent_streams", 3)]
    async with serving({"Like": count}, limit) as (address, _), calling(CallerKind.LIGHT, address) as caller:
        answers = await asyncio.gather(*(call(caller, b"%d" % number) for number in range(100)))
        assert answers == [(0, b"%d" % number, "") for number in range(100)]
        assert highest <= 3


async def test_errors_come_with_code_and_message(kind: CallerKind) -> None:
    """Percent-encoded messages too; an unknown method is UNIMPLEMENTED and the next call works."""

    async def fail(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "kein „Beitrag“")

    async with serving({"Like": fail}) as (address, _), calling(kind, address) as caller:
        for _ in range(3):
            assert await call(caller, b"x") == (5, b"", "kein „Beitrag“")
            assert (await call(caller, b"x", "/likering.v1.LikeService/Unlike"))[0] == 12


async def test_a_call_ends_at_its_deadline(kind: CallerKind) -> None:
    """Also when the server never answers."""
    never = asyncio.Event()

    async def hang(request: bytes, context: object) -> bytes:
        await never.wait()
        return request

    async with serving({"Like": hang}) as (address, _), calling(kind, address, timeout=0.2) as caller:
        assert (await call(caller, b"x"))[0] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_lost_server_is_unavailable_and_found_again() -> None:
    """The light caller: calls in flight fail at once, and new connections come by themselves."""
    hanging = asyncio.Event()

    async def hang(request: bytes, context: object) -> bytes:
        hanging.set()
        await asyncio.Event().wait()
        return request

    async def echo(request: bytes, context: object) -> bytes:
        return request

    async with serving({"Like": hang}) as (address, server):
        port = int(address.rpartition(":")[2])
        caller = await open_caller(CallerKind.LIGHT, address, connections=2, timeout=10)
        lost = asyncio.ensure_future(call(caller, b"x"))
        await hanging.wait()
        await server.stop(0)
        assert (await lost)[0] in {grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.CANCELLED.value[0]}
    async with serving({"Like": echo}, port=port):
        async with asyncio.timeout(10):
            while (await call(caller, b"x"))[0] != 0:
                pass  # each failed call waits a little by itself
        await caller.close()


async def test_nobody_there_is_an_error(kind: CallerKind) -> None:
    """Before any call."""
    async with serving({}) as (address, _):
        pass
    with pytest.raises(OSError, match=r"."):
        await open_caller(kind, address, connections=1, timeout=0.3)


class Counting:
    """Answers as a router would, and counts."""

    def __init__(self) -> None:
        self.edges: set[tuple[str, str]] = set()

    async def like(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        like = pb.LikeRequest.FromString(request)
        edge = (like.user_id, like.post_id)
        if len(self.edges) % 10 == 9:
            self.edges.add(("refused", str(len(self.edges))))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        assert edge not in self.edges
        self.edges.add(edge)
        return pb.LikeResponse(outcome=pb.MUTATION_OUTCOME_CHANGED).SerializeToString()

    async def count(self, request: bytes, context: object) -> bytes:
        return pb.GetLikeCountResponse().SerializeToString()

    @property
    def stored(self) -> int:
        return sum(user != "refused" for user, _ in self.edges)


async def test_an_open_loop_sends_what_it_should() -> None:
    """The number of calls is the rate's, every one is accounted for by code, and writes are counted."""
    service = Counting()
    async with serving({"Like": service.like, "GetLikeCount": service.count}) as (address, _):
        workload = Workload(prefix="abc123", mix=parse_mix("like=1,count=1"), posts=100)
        seconds: list[int] = []
        load = Load(
            address=address,
            workload=workload,
            rate=200.0,
            seconds=1.0,
            warmup=0.2,
            on_second=lambda second: seconds.append(second.calls),
        )
        result = (await run_load(load)).result
    assert result.calls == 200
    assert result.written.likes == service.stored
    assert result.written.uncertain == result.messages["RESOURCE_EXHAUSTED: full"]
    assert result.ops[Op.LIKE].codes.keys() == {"OK", "RESOURCE_EXHAUSTED"}
    assert result.ops[Op.COUNT].codes.keys() == {"OK"}
    assert result.send_lag.count == 200


def test_a_stalled_service_makes_the_calls_of_that_time_late() -> None:
    """Latency counts from the intended send time: one second of silence at 100/s is fifty calls late by half of it."""
    stall = asyncio.Event()

    async def main() -> int:
        async def like(request: bytes, context: object) -> bytes:
            if pb.LikeRequest.FromString(request).user_id.endswith("0" * 11):  # the first
                asyncio.get_running_loop().call_later(1.0, stall.set)
            await stall.wait()
            return pb.LikeResponse(outcome=pb.MUTATION_OUTCOME_CHANGED).SerializeToString()

        async with serving({"Like": like}) as (address, _):
            load = Load(
                address=address, workload=Workload(prefix="abc123"), rate=100.0, seconds=1.0, warmup=0.0
            )
            return (await run_load(load)).result.ops[Op.LIKE].latency.percentile(50)

    assert asyncio.run(main()) > 450_000


def test_a_paced_load_keeps_calls_in_flight_and_continues_its_users() -> None:
    """Without a rate: never more calls than asked for, and a second load makes new edges."""
    service = Counting()
    now = highest = 0
    full = asyncio.Event()

    async def like(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        if now == 20:
            full.set()
        try:
            await full.wait()
            return await service.like(request, context)
        finally:
            now -= 1

    async def main() -> int:
        async with serving({"Like": like}) as (address, _):
            likes = first_user = 0
            for _ in range(2):
                load = Load(
                    address=address,
                    workload=Workload(prefix="abc123", posts=10),
                    in_flight=20,
                    seconds=0.3,
                    warmup=0.1,
                    first_user=first_user,
                )
                outcome = await run_load(load)
                likes += outcome.result.written.likes
                first_user = outcome.next_user
            return likes

    assert run_paced(main(), 0.001) == service.stored
    assert highest == 20


@asynccontextmanager
async def secured(directory: Path, service: Counting) -> AsyncIterator[tuple[str, CredentialFiles]]:
    """Serves who shows a certificate of the authority and a token; its address, and what is to be shown."""
    authority = Authority(directory)
    own, token = authority.issue("app"), directory / "token"
    token.write_text("of-this-test")

    async def like(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        if metadata.get("authorization") != "Bearer of-this-test":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return await service.like(request, context)

    files = Certificates(*authority.issue("router")).for_server()
    async with serving({"Like": like}, credentials=files) as (address, _):
        yield address, CredentialFiles(own.ca, own.certificate, own.key, token)


async def test_a_load_is_put_on_a_secured_router(kind: CallerKind, tmp_path: Path) -> None:
    """By processes that are told where certificate and token are; both callers show them."""
    service = Counting()
    async with secured(tmp_path, service) as (address, shown):
        load = Load(
            address=address,
            workload=Workload(prefix="abc123"),
            rate=50.0,
            seconds=1.0,
            warmup=0.1,
            caller=kind,
            shown=shown,
        )
        result = await run_processes(load, 2)
    assert result.calls == 50
    assert result.written.likes == service.stored > 0


async def test_a_router_that_is_not_trusted_gets_no_load(kind: CallerKind, tmp_path: Path) -> None:
    """Nor does one that does not take the certificate, or gets none."""
    other = Authority(tmp_path / "other")
    stranger = other.issue("app")
    async with secured(tmp_path / "own", Counting()) as (address, shown):
        for wrong in (
            shown._replace(ca=other.ca),
            shown._replace(certificate=stranger.certificate, key=stranger.key),
            CredentialFiles(ca=shown.ca),
            CredentialFiles(),
        ):
            with pytest.raises((OSError, TimeoutError)):
                await open_caller(kind, address, connections=1, timeout=1.0, shown=wrong)


async def test_several_processes_make_one_load() -> None:
    """They share the rate, have users of their own, and their results are one."""
    service = Counting()
    async with serving({"Like": service.like}) as (address, _):
        load = Load(address=address, workload=Workload(prefix="abc123"), rate=100.0, seconds=1.0, warmup=0.1)
        result = await run_processes(load, 2)
    assert result.calls == 100
    assert result.written.likes == service.stored
    assert result.client_cpu_seconds > 0


async def test_processes_say_why_they_cannot() -> None:
    """Nobody there is one sentence."""
    async with serving({}) as (address, _):
        pass
    load = Load(address=address, workload=Workload(prefix="abc123"), seconds=0.5)
    with pytest.raises(LoadFailed, match="nobody answers at 127"):
        await run_processes(load, 1)
