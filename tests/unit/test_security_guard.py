"""The guard in front of the services, over real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from likering.client.credentials import credentials_from_files
from likering.dev.authority import ADMIN_AUDIENCE, AUDIENCE, Authority, CertificateFiles
from likering.security.access import Access
from likering.security.certificates import Certificates
from likering.security.guard import Guard
from likering.security.identity import CertificateIdentities
from likering.security.roles import Role
from likering.security.tokens import LEEWAY, TokenVerifier
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server
from likering.serving.status import from_rpc_error
from likering.v1 import like_service_pb2 as api
from router.caller_limit import CallerLimit
from tests.parts.stubs import health, like_stub

LIKE = api.LikeRequest(user_id="u1", post_id="p1")
NOBODY = ("NO_CREDENTIAL", grpc.StatusCode.UNAUTHENTICATED)
NOT_ALLOWED = ("ROLE_MISSING", grpc.StatusCode.PERMISSION_DENIED)


class Likes:
    """Answers everything; remembers the calls that were let in."""

    def __init__(self) -> None:
        self.callers: list[str] = []

    async def _answer(self, request: Any, call: Call) -> Any:
        self.callers.append(call.caller)
        return api.LikeResponse()

    Like = Unlike = HasLiked = GetLikeCount = MutateLikes = GetLikeSummaries = FilterLikers = _answer
    ListLikers = ListLikedPosts = _answer

    async def WatchLikeCounts(self, request: Any, call: Call) -> AsyncIterator[Any]:
        yield api.WatchLikeCountsResponse()
        await asyncio.Event().wait()

    StreamLikeEvents = WatchLikeCounts


class Served:
    """A server with its authority."""

    def __init__(self, authority: Authority, server: Server, likes: Likes) -> None:
        self.authority = authority
        self.server = server
        self.likes = likes

    def channel(self, files: CertificateFiles) -> grpc.aio.Channel:
        """With a certificate."""
        return grpc.aio.secure_channel(self.server.address, files.credentials())

    def anonymous(self) -> grpc.aio.Channel:
        """Without one, where that is possible."""
        return grpc.aio.secure_channel(
            self.server.token_address, credentials_from_files(ca=self.authority.ca)
        )


@asynccontextmanager
async def serving(
    directory: Path, *, bound: bool = False, limit: CallerLimit | None = None
) -> AsyncIterator[Served]:
    authority = Authority(directory)
    authority.give_roles(
        {"app": [Role.WRITER], "page": [Role.READER], "node": [Role.NODE], "operator": [Role.OPERATOR]}
    )
    tokens = TokenVerifier(authority.token_keys, audience=AUDIENCE, bound_to_user=bound)
    access = Access(
        Certificates(*authority.issue("server")), Guard(CertificateIdentities(authority.roles), tokens)
    )
    likes = Likes()
    handlers = ServiceHandlers(
        api.DESCRIPTOR.services_by_name["LikeService"],
        likes,
        guard=access.guard,
        limit=limit,
        nul_for_undecodable=True,
    )
    server = Server([handlers], access=access)
    await server.start("127.0.0.1:0", token_listen="127.0.0.1:0", health_listen="127.0.0.1:0")
    try:
        yield Served(authority, server, likes)
    finally:
        await server.drain(delay=0, grace=1)


async def outcome(call: Any) -> tuple[str, grpc.StatusCode]:
    """The reason and the code of a failure; OK."""
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return from_rpc_error(failure).reason, failure.code()
    return "", grpc.StatusCode.OK


def _reflection(channel: grpc.aio.Channel) -> Any:
    untyped: Any = channel
    return ServerReflectionStub(untyped)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_a_certificate_has_the_roles_of_its_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        expected = {"app": ("", grpc.StatusCode.OK), "page": NOT_ALLOWED, "node": NOT_ALLOWED}
        expected |= {"operator": NOT_ALLOWED, "unknown": NOT_ALLOWED}
        found = {}
        for name in expected:
            async with served.channel(served.authority.issue(name)) as channel:
                found[name] = await outcome(like_stub(channel).Like(LIKE, timeout=10))
        assert found == expected
        assert served.likes.callers == ["uri:spiffe://likering.dev/app"]


async def test_without_any_credential_nothing_is_let_in_but_questions_about_health(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.anonymous() as channel:
        assert await outcome(like_stub(channel).Like(LIKE, timeout=10)) == NOBODY
        assert await outcome(like_stub(channel).GetLikeCount(api.GetLikeCountRequest(), timeout=10)) == NOBODY
        assert await health(channel) == "NOT_SERVING"
        for wrong in ("", "Bearer", "Basic dTpw", "Bearer ", "bearer x.y.z"):
            call = like_stub(channel).Like(LIKE, timeout=10, metadata=(("authorization", wrong),))
            assert await outcome(call) == NOBODY


async def test_a_token_has_roles_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.anonymous() as channel:
        stub, authority = like_stub(channel), served.authority
        read, write = bearer(authority.token("u9", [Role.READER])), bearer(authority.token("u9"))
        assert (await outcome(stub.Like(LIKE, timeout=10, metadata=write)))[0] == ""
        assert await outcome(stub.Like(LIKE, timeout=10, metadata=read)) == NOT_ALLOWED
        operators = bearer(authority.token("alice", [Role.OPERATOR], audience=ADMIN_AUDIENCE))
        assert await outcome(stub.Like(LIKE, timeout=10, metadata=operators)) == NOBODY


async def test_a_token_counts_and_not_the_certificate_beside_it(tmp_path: Path) -> None:
    """A service that hands on its user's token acts for that user, whatever it may do itself."""
    async with serving(tmp_path) as served, served.channel(served.authority.issue("app")) as channel:
        read = bearer(served.authority.token("u1", [Role.READER]))
        assert await outcome(like_stub(channel).Like(LIKE, timeout=10, metadata=read)) == NOT_ALLOWED
        assert await outcome(like_stub(channel).Like(LIKE, timeout=10, metadata=bearer("x.y.z"))) == NOBODY


async def test_a_bound_token_writes_for_its_user_only(tmp_path: Path) -> None:
    """Not even one of a batch may be another's; reads are not bound."""
    async with serving(tmp_path, bound=True) as served, served.anonymous() as channel:
        stub, own = like_stub(channel), bearer(served.authority.token("u1"))
        other = ("OTHER_USER", grpc.StatusCode.PERMISSION_DENIED)
        both = [api.LikeMutation(user_id=user, post_id="p") for user in ("u1", "u2")]
        assert (await outcome(stub.Like(LIKE, timeout=10, metadata=own)))[0] == ""
        for call in (
            stub.Like(api.LikeRequest(user_id="u2", post_id="p1"), timeout=10, metadata=own),
            stub.Unlike(api.UnlikeRequest(user_id="U1", post_id="p1"), timeout=10, metadata=own),
            stub.MutateLikes(api.MutateLikesRequest(mutations=both), timeout=10, metadata=own),
        ):
            assert await outcome(call) == other
        request = api.HasLikedRequest(user_id="u2", post_id="p1")
        assert (await outcome(stub.HasLiked(request, timeout=10, metadata=own)))[0] == ""
        assert len(served.likes.callers) == 2
    async with (
        serving(tmp_path, bound=True) as served,
        served.channel(served.authority.issue("app")) as channel,
    ):
        other_user = api.LikeRequest(user_id="u2", post_id="p1")
        assert (await outcome(like_stub(channel).Like(other_user, timeout=10)))[0] == ""


async def test_a_stream_ends_with_the_token_that_it_began_with(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.anonymous() as channel:
        token = served.authority.token("u1", lifetime=timedelta(seconds=1 - LEEWAY))
        stream = like_stub(channel).WatchLikeCounts(
            api.WatchLikeCountsRequest(), timeout=30, metadata=bearer(token)
        )
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert from_rpc_error(caught.value).reason == "NO_CREDENTIAL"


async def test_a_stream_ends_when_its_callers_role_is_taken_away(tmp_path: Path) -> None:
    """Although it stands, and nothing else happens."""
    async with serving(tmp_path) as served, served.channel(served.authority.issue("page")) as channel:
        stream = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(), timeout=30)
        await stream.read()
        served.authority.give_roles({"app": [Role.READER]})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert from_rpc_error(caught.value).reason == "ROLE_MISSING"


async def test_streams_end_when_the_key_of_their_tokens_is_taken_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.anonymous() as channel:
        streams = []
        for user in ("u1", "u2"):
            token = bearer(served.authority.token(user))
            streams.append(
                like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(), timeout=30, metadata=token)
            )
            await streams[-1].read()
        Authority(tmp_path / "other").token_keys.replace(served.authority.token_keys)
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert from_rpc_error(caught.value).reason == "NO_CREDENTIAL"


async def test_a_stream_goes_on_while_another_callers_role_is_taken_away(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as served,
        served.channel(served.authority.issue("page")) as kept,
        served.anonymous() as lost,
    ):
        stays = like_stub(kept).WatchLikeCounts(api.WatchLikeCountsRequest(), timeout=30)
        ends = like_stub(lost).WatchLikeCounts(
            api.WatchLikeCountsRequest(), timeout=30, metadata=bearer(served.authority.token("u1"))
        )
        await stays.read()
        await ends.read()
        Authority(tmp_path / "other").token_keys.replace(served.authority.token_keys)
        with pytest.raises(grpc.aio.AioRpcError):
            await ends.read()
        assert not stays.done()


async def test_a_caller_has_a_rate_whatever_connections_it_makes(tmp_path: Path) -> None:
    """What is refused tells when to come again; nobody else is kept waiting for it."""
    async with serving(tmp_path, limit=CallerLimit(0.01)) as served, served.anonymous() as channel:
        greedy, modest = (bearer(served.authority.token(user)) for user in ("greedy", "modest"))
        async with served.anonymous() as another:
            limited = ("CALLER_RATE_LIMITED", grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert (await outcome(like_stub(channel).Like(LIKE, timeout=10, metadata=greedy)))[0] == ""
            assert await outcome(like_stub(channel).Like(LIKE, timeout=10, metadata=greedy)) == limited
            assert await outcome(like_stub(another).Like(LIKE, timeout=10, metadata=greedy)) == limited
            watching = like_stub(another).WatchLikeCounts(
                api.WatchLikeCountsRequest(), timeout=10, metadata=greedy
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watching.read()
            assert 90 < (from_rpc_error(caught.value).retry_after or 0) <= 100
        assert (await outcome(like_stub(channel).Like(LIKE, timeout=10, metadata=modest)))[0] == ""


async def test_reflection_is_for_those_who_have_a_role(tmp_path: Path) -> None:
    asking = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(tmp_path) as served:
        async with served.anonymous() as channel:
            stub = _reflection(channel)
            assert await outcome(stub.ServerReflectionInfo(iter([asking]), timeout=10).read()) == NOBODY
        async with served.channel(served.authority.issue("unknown")) as channel:
            stub = _reflection(channel)
            assert await outcome(stub.ServerReflectionInfo(iter([asking]), timeout=10).read()) == NOT_ALLOWED
        async with served.channel(served.authority.issue("page")) as channel:
            stub = _reflection(channel)
            answer = await stub.ServerReflectionInfo(iter([asking]), timeout=10).read()
            names = {service.name for service in answer.list_services_response.service}
            assert "likering.v1.LikeService" in names


async def test_reflection_does_not_outlive_the_credential_that_it_began_with(tmp_path: Path) -> None:
    asking = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(tmp_path) as served, served.anonymous() as channel:
        token = served.authority.token("u1", lifetime=timedelta(seconds=1 - LEEWAY))
        call = _reflection(channel).ServerReflectionInfo(timeout=30, metadata=bearer(token))

        async def ask_on() -> None:
            while True:
                await call.write(asking)
                await call.read()

        assert await outcome(ask_on()) == NOBODY


async def test_probes_without_tls_find_health_and_nothing_else(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as served,
        grpc.aio.insecure_channel(served.server.health_address) as channel,
    ):
        assert await health(channel) == "NOT_SERVING"
        await served.server.set_serving(True)
        assert await health(channel) == "SERVING"
        assert await health(channel, "likering.v1.LikeService") == "SERVING"
        assert (await outcome(like_stub(channel).Like(LIKE, timeout=10)))[1] is grpc.StatusCode.UNIMPLEMENTED


async def test_a_connection_does_not_outlive_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handshakes look at certificates once; a connection may last for days."""
    async with serving(tmp_path) as served, served.channel(served.authority.issue("app")) as channel:
        assert (await outcome(like_stub(channel).Like(LIKE, timeout=10)))[0] == ""
        monkeypatch.setattr("likering.security.identity.time", lambda: 4e9)
        assert await outcome(like_stub(channel).Like(LIKE, timeout=10)) == NOBODY


async def test_nothing_is_parsed_for_nobody(tmp_path: Path) -> None:
    """Whoever has no credential learns no more from a message that makes no sense than from another."""
    async with serving(tmp_path) as served, served.anonymous() as channel:
        call: Any = channel.unary_unary("/likering.v1.LikeService/Like")
        assert await outcome(call(b"\xff\xff", timeout=10)) == NOBODY


async def never() -> AsyncIterator[bytes]:
    """No request ever comes."""
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("streams", [False, True])
async def test_nothing_is_taken_in_of_nobody(tmp_path: Path, streams: bool) -> None:
    """The answer comes before the request has: none of it is kept in memory meanwhile."""
    async with serving(tmp_path) as served, served.anonymous() as channel:
        untyped: Any = channel
        if streams:
            call = untyped.stream_stream("/likering.v1.LikeService/WatchLikeCounts")(never(), timeout=10)
            assert await outcome(call.read()) == NOBODY
        else:
            assert (
                await outcome(untyped.stream_unary("/likering.v1.LikeService/Like")(never(), timeout=10))
                == NOBODY
            )
            answered = await untyped.stream_unary("/grpc.health.v1.Health/Check")(never(), timeout=10)
            assert HealthCheckResponse.FromString(answered).status == HealthCheckResponse.NOT_SERVING


async def test_health_of_a_service_is_told_to_those_who_show_a_credential(tmp_path: Path) -> None:
    """To all others that of the whole server."""
    async with serving(tmp_path) as served, served.anonymous() as channel:
        token = bearer(served.authority.token("u1"))
        untyped: Any = channel
        stub: Any = HealthStub(untyped)
        asking = HealthCheckRequest(service="unknown")
        assert await outcome(stub.Check(asking, timeout=10)) == ("", grpc.StatusCode.OK)
        assert (await outcome(stub.Check(asking, timeout=10, metadata=token)))[1] is grpc.StatusCode.NOT_FOUND


def test_a_service_without_rules_cannot_be_guarded(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="new.proto", package="new")
    file.message_type.add(name="Nothing")
    file.service.add(name="Service").method.add(
        name="Like", input_type=".new.Nothing", output_type=".new.Nothing"
    )
    pool = descriptor_pool.DescriptorPool()
    service = pool.AddSerializedFile(file.SerializeToString()).services_by_name["Service"]
    authority = Authority(tmp_path)
    authority.give_roles({})
    with pytest.raises(LookupError, match=r"new\.Service/Like has no rule"):
        ServiceHandlers(service, Likes(), guard=Guard(CertificateIdentities(authority.roles)))
