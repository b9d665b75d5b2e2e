"""Calls through a real cluster, as a client sends them that means no good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from likering.dev.cluster import EmbeddedCluster
from likering.serving.status import from_rpc_error, from_status
from likering.v1 import like_service_pb2 as api
from tests.parts.stored import stored_in
from tests.parts.stubs import health, like_stub

SERVICE = "likering.v1.LikeService"
LIKE = api.LikeMutation.ACTION_LIKE


@pytest.fixture
async def channel(cluster: EmbeddedCluster) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        yield channel


async def test_router_and_nodes_say_that_they_serve(
    cluster: EmbeddedCluster, channel: grpc.aio.Channel
) -> None:
    assert await health(channel) == await health(channel, SERVICE) == "SERVING"
    for node in cluster.nodes.values():
        async with grpc.aio.insecure_channel(node.address) as of_node:
            assert await health(of_node, "likering.shard.v1.ShardService") == "SERVING"


@pytest.mark.parametrize(
    ("request_", "mark", "bytes_", "field"),
    [
        (api.LikeRequest(user_id="MARK", post_id="{post}"), b"MARK", b"\xff\xfe\xfd\xfc", "user_id"),
        (api.LikeRequest(user_id="u", post_id="{post}\0MARK"), b"MARK", b"MARK", "post_id"),
        (api.LikeRequest(user_id="MARK", post_id="{post}"), b"MARK", b"\xed\xa0\x80.", "user_id"),
    ],
    ids=["no UTF-8", "NUL", "surrogate"],
)
async def test_an_id_that_no_stub_would_send_is_refused_by_field(
    channel: grpc.aio.Channel, request_: api.LikeRequest, mark: bytes, bytes_: bytes, field: str
) -> None:
    call: Any = channel.unary_unary(f"/{SERVICE}/Like")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(request_.SerializeToString().replace(mark, bytes_))
    error = from_rpc_error(caught.value)
    assert error.reason == "ID_NOT_PRINTABLE"
    assert [violation.field for violation in error.violations] == [field]


async def test_of_a_batch_only_the_good_mutations_are_stored(
    cluster: EmbeddedCluster, channel: grpc.aio.Channel
) -> None:
    posts = [f"{uuid4()}" for _ in range(40)]
    mutations = [api.LikeMutation(user_id="u", post_id=post, action=LIKE) for post in posts]
    mutations[3].user_id = ""
    mutations[7].user_id = "x" * 129
    mutations[11].user_id = "a\0b"
    mutations[13].user_id = "MARK"
    mutations[17].action = api.LikeMutation.ACTION_UNSPECIFIED
    mutations[19].intent_time.seconds = 253_402_300_799
    bad = {
        3: "ID_EMPTY",
        7: "ID_TOO_LONG",
        11: "ID_NOT_PRINTABLE",
        13: "ID_NOT_PRINTABLE",
        17: "ENUM_UNKNOWN",
        19: "INTENT_IN_FUTURE",
    }
    call: Any = channel.unary_unary(f"/{SERVICE}/MutateLikes")
    data = api.MutateLikesRequest(mutations=mutations).SerializeToString()
    response = api.MutateLikesResponse.FromString(await call(data.replace(b"MARK", b"\xc3\x28\xff\xff")))
    reasons = {}
    for position, result in enumerate(response.results):
        if result.HasField("status"):
            error = from_status(result.status)
            assert error is not None
            reasons[position] = error.reason
            assert error.violations[0].field.startswith(f"mutations[{position}].")
    assert reasons == bad
    stored = await stored_in([node.postgres_dsn for node in cluster.nodes.values()], posts)
    assert stored.liked == {(post, "u") for position, post in enumerate(posts) if position not in bad}
    assert set(stored.posts) == {post for post, _ in stored.liked}


async def test_a_thousand_and_one_mutations_store_nothing(
    cluster: EmbeddedCluster, channel: grpc.aio.Channel
) -> None:
    post = str(uuid4())
    mutations = [api.LikeMutation(user_id=f"u{number}", post_id=post, action=LIKE) for number in range(1001)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await like_stub(channel).MutateLikes(api.MutateLikesRequest(mutations=mutations))
    assert from_rpc_error(caught.value).reason == "BATCH_TOO_LARGE"
    stored = await stored_in([node.postgres_dsn for node in cluster.nodes.values()], [post])
    assert not stored.liked


async def test_an_oversized_message_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await like_stub(channel).Like(api.LikeRequest(user_id="x" * 2_000_000, post_id="p"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await like_stub(channel).Like(api.LikeRequest(user_id="u", post_id=str(uuid4())))
