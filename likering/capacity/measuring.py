"""Measures what a plan assumes, on an embedded cluster of one node: CPU per like and per count, and bytes per like.

What counts is the CPU that each part took, from /proc; how fast the machine is as a whole does not matter then, nor
that the load comes from this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import grpc.aio
import psycopg

from likering.bench.cpu import cpu_seconds
from likering.capacity.sizing import Costs
from likering.client.aio import AsyncLikes
from likering.client.model import Mutation
from likering.dev.cluster import EmbeddedCluster
from likering.dev.errors import DevError
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from likering.v1 import like_service_pb2 as api
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

_IN_FLIGHT: Final = 256
_BATCHES_IN_FLIGHT: Final = 16
"""A router has two to each node at most; with several routers a node has more."""
_FIRST_EPOCH: Final = 1
_WARM_UP: Final = 2.0
_SLOTS: Final = 16
"""Few: with more the pages that each begins with would count for more than they do in a full database."""
_POSTS: Final = 2_000
_BULK: Final = 500
_BULK_IN_FLIGHT: Final = 8
_TOLD_SECONDS: Final = 120.0

_SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'likering'::regnamespace AND relname ~ '_s[0-9]+$'
"""


_CLUSTER: Final = "SELECT cluster_id::text FROM likering.cluster"


async def measure(
    directory: Path, *, seconds: float, likes: int, posts_per_read: int, say: Callable[[str], None]
) -> Costs:
    """On a cluster that is started in ``directory``. ``likes``: how many are stored to weigh one."""
    cluster = EmbeddedCluster(directory, nodes=1, slots=_SLOTS, progress=say)
    await asyncio.to_thread(cluster.start)
    try:
        bytes_per_like = await _weigh(cluster, likes, say)
        async with grpc.aio.insecure_channel(cluster.address) as channel:
            stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))

            def like(number: int) -> Awaitable[object]:
                return stub.Like(api.LikeRequest(user_id=_user(likes + number), post_id=_post(number)))

            def counts(number: int) -> Awaitable[object]:
                posts = [_post(number * posts_per_read + place) for place in range(posts_per_read)]
                return stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=posts))

            say("likes, one a call")
            of_like = await _cpu_per_call(cluster, like, seconds)
            say(f"counts, {posts_per_read} a call")
            of_page = await _cpu_per_call(cluster, counts, seconds)
        say("batches of one count")
        of_batch = await _cpu_per_batch(cluster, seconds)
    finally:
        await asyncio.to_thread(cluster.stop)
    return Costs(
        bytes_per_like=bytes_per_like,
        likes_per_router_core=1 / of_like["router"],
        likes_per_node_core=1 / (of_like["node"] + of_like["valkey"]),
        likes_per_postgres_core=1 / of_like["postgres"],
        counts_per_router_core=posts_per_read / of_page["router"],
        counts_per_node_core=posts_per_read / (of_page["node"] + of_page["valkey"]),
        batches_per_router_core=1 / of_batch["client"],
        batches_per_node_core=1 / (of_batch["node"] + of_batch["valkey"]),
    )


async def _cpu_per_call(
    cluster: EmbeddedCluster,
    call: Callable[[int], Awaitable[object]],
    seconds: float,
    in_flight: int = _IN_FLIGHT,
) -> dict[str, float]:
    """CPU seconds per call, by part; ``client`` is this process."""
    calls = 0

    async def caller(until: float) -> None:
        nonlocal calls
        while time.monotonic() < until:
            calls += 1
            await call(calls)

    async def run(seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(caller(until) for _ in range(in_flight)))

    await run(_WARM_UP)
    groups = _processes(cluster)

    def so_far() -> dict[str, float]:
        return cpu_seconds(groups) | {"client": time.process_time()}

    calls_before, before = calls, so_far()
    await run(seconds)
    return {part: (after - before[part]) / (calls - calls_before) for part, after in so_far().items()}


async def _cpu_per_batch(cluster: EmbeddedCluster, seconds: float) -> dict[str, float]:
    """CPU seconds of the node's parts for a batch of a router, and of this process, which plays the router."""
    (node,) = cluster.nodes.values()
    cluster_id = await asyncio.to_thread(_ask, cluster.topology_dsn, _CLUSTER)
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = cast("ShardServiceAsyncStub", ShardServiceStub(channel))

        def batch(number: int) -> Awaitable[shard.ExecuteResponse]:
            request = shard.ExecuteRequest(
                cluster_id=cluster_id,
                session_id="likering plan",
                batch_number=number,
                lowest_batch_number=1,
                read_mode=shard.READ_MODE_CACHED,
                kinds=[shard.OP_KIND_COUNT],
                post_ids=[_post(number)],
                user_ids=[""],
                epochs=[_FIRST_EPOCH],
            )
            return stub.Execute(request)

        if any((await batch(1)).codes):
            raise DevError("the node does not answer batches of counts")
        return await _cpu_per_call(cluster, batch, seconds, in_flight=_BATCHES_IN_FLIGHT)


def _processes(cluster: EmbeddedCluster) -> Mapping[str, list[int]]:
    groups = {"router": cluster.router_pids}
    for part in ("node", "postgres", "valkey"):
        pid = cluster.parts["a", part].pid
        groups[part] = [pid] if pid is not None else []
    return groups


async def _weigh(cluster: EmbeddedCluster, likes: int, say: Callable[[str], None]) -> float:
    """Bytes per like, of both sides and their indexes."""
    (node,) = cluster.nodes.values()
    before = await asyncio.to_thread(_ask, node.postgres_dsn, _SIZE)
    numbers = iter(range(likes))
    say(f"storing {likes:,} likes")
    async with AsyncLikes(cluster.address, timeout=_TOLD_SECONDS) as client:

        async def some() -> None:
            while mutations := [
                Mutation.like(_user(number), _post(number))
                for _, number in zip(range(_BULK), numbers, strict=False)
            ]:
                await client.mutate(mutations)

        await asyncio.gather(*(some() for _ in range(_BULK_IN_FLIGHT)))
        # The users' side follows in the order of the likes: once it has the last ones it has all.
        last = iter(range(max(0, likes - _BULK * _BULK_IN_FLIGHT), likes))

        async def look() -> None:
            for number in last:
                await _until_told(client, _user(number))

        async with asyncio.timeout(_TOLD_SECONDS):
            await asyncio.gather(*(look() for _ in range(_IN_FLIGHT)))
    after = await asyncio.to_thread(_ask, node.postgres_dsn, _SIZE)
    return float(after - before) / likes


async def _until_told(client: AsyncLikes, user: str) -> None:
    """Returns when the users' side has the user's like."""
    while not (await client.list_liked_posts(user, page_size=1)).likes:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.5)


def _ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _user(number: int) -> str:
    """19 digits, scattered, as user ids of large services are."""
    return f"1{number * 7_919_000_003 % 10**17:018}"


def _post(number: int) -> str:
    return f"7{number * 104_729 % _POSTS:018}"
