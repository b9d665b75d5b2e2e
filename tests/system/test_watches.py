"""Watches on a cluster: nothing is seen of moves and crashes, and many watchers are one subscription."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
import pytest

from likering import Action, AsyncLikes, Mutation
from likering.dev.cluster import EmbeddedCluster
from likering.ring.topology import Topology
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from likering.v1 import like_service_pb2 as api
from tests.parts.resizing import Resizing
from tests.parts.stored import stored_in
from tests.parts.stubs import like_stub
from tests.parts.until import until

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub

pytestmark = pytest.mark.timeout(120)

POSTS = [f"post-{number}" for number in range(40)]
WATCHERS = 2000
CONNECTIONS = 4


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster of this module's own: its parts are killed, and a node joins."""
    with EmbeddedCluster(tmp_path_factory.mktemp("watched"), nodes=2, slots=8) as cluster:
        yield cluster


async def versions_in(cluster: EmbeddedCluster, posts: Sequence[str]) -> dict[str, int]:
    """What the databases hold."""
    stored = await stored_in([node.postgres_dsn for node in cluster.nodes.values()], posts)
    assert not stored.twice
    return {post_id: version for post_id, (version, _) in stored.posts.items()}


async def watched_posts(cluster: EmbeddedCluster) -> int:
    """Posts that the nodes are asked to watch."""
    total = 0
    for node in cluster.nodes.values():
        async with grpc.aio.insecure_channel(node.address) as channel:
            stub = cast("ShardServiceAsyncStub", ShardServiceStub(channel))
            cluster_id = await _cluster_id(stub)
            load = await stub.GetLoad(shard.GetLoadRequest(cluster_id=cluster_id), timeout=5)
            total += load.watched_posts
    return total


async def _cluster_id(stub: ShardServiceAsyncStub) -> str:
    answer = await stub.GetTopology(shard.GetTopologyRequest(), timeout=5)
    return Topology.from_json(answer.topology).cluster_id


@asynccontextmanager
async def watching(likes: AsyncLikes, posts: Sequence[str]) -> AsyncIterator[Mapping[str, int]]:
    """Post → version of the newest count that was told; an AssertionError for one that went back or came twice."""
    seen: dict[str, int] = {}

    async def watch() -> None:
        async with aclosing(likes.watch(posts)) as counts:
            async for count in counts:
                assert count.version > seen.get(count.post_id, -1), count
                seen[count.post_id] = count.version

    task = asyncio.create_task(watch())
    try:
        yield seen
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _toggle_until(likes: AsyncLikes, end: asyncio.Event) -> None:
    chance = random.Random(5)
    while not end.is_set():
        await likes.mutate(
            [
                Mutation(f"u{chance.randrange(50)}", chance.choice(POSTS), chance.choice(list(Action)))
                for _ in range(20)
            ]
        )


async def test_every_last_count_arrives_though_slots_move_and_parts_die(watched: EmbeddedCluster) -> None:
    """A node joins, a node's process and its Postgres are killed, and the router; meanwhile likes come and go."""
    async with (
        Resizing(watched) as resizing,
        AsyncLikes(watched.address, timeout=20.0) as likes,
        AsyncLikes(watched.address, timeout=20.0) as watcher,
        watching(watcher, POSTS) as seen,
    ):
        await resizing.moves.set_limits(slots_at_once=2, rows_per_second=0, pause_budget_ms=1000)
        quiet = asyncio.Event()
        toggling = asyncio.create_task(_toggle_until(likes, quiet))
        try:
            await asyncio.to_thread(watched.add_node, "c")
            resize, plan = await resizing.begin()
            assert plan.minimum
            await resizing.settled(resize)
            for name, part in (("a", "node"), ("b", "postgres"), ("router", "router")):
                await asyncio.to_thread(watched.kill, name, part, signal.SIGKILL)
                await _moved_on(seen)
        finally:
            quiet.set()
            await toggling
        stored = await versions_in(watched, POSTS)
        await until(lambda: seen == stored)
    await _nobody_watches(watched)


async def _moved_on(seen: Mapping[str, int]) -> None:
    """Waits until each post has been told of again."""
    before = dict(seen)
    await until(lambda: all(seen[post_id] > before.get(post_id, 0) for post_id in POSTS))


async def _nobody_watches(cluster: EmbeddedCluster) -> None:
    async with asyncio.timeout(10):
        while await watched_posts(cluster):  # noqa: ASYNC110 - it is a fact about another process: no event tells
            await asyncio.sleep(0.05)


async def test_thousands_of_watchers_of_a_post_are_one_subscription(watched: EmbeddedCluster) -> None:
    """All of them are told the last count of a post under load."""
    post = "viral"
    async with AsyncExitStack() as stack:
        likes = await stack.enter_async_context(AsyncLikes(watched.address, timeout=20.0))
        await likes.like("first", post)
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    watched.address, options=[("grpc.use_local_subchannel_pool", 1), ("n", n)]
                )
            )
            for n in range(CONNECTIONS)
        ]
        request = api.WatchLikeCountsRequest(post_ids=[post])
        calls: list[Any] = [
            like_stub(channels[number % CONNECTIONS]).WatchLikeCounts(request) for number in range(WATCHERS)
        ]
        seen = [0] * WATCHERS
        last = 0

        async def read(number: int) -> None:
            while not last or seen[number] < last:
                for count in (await calls[number].read()).like_counts:
                    assert count.version > seen[number]
                    seen[number] = count.version

        reading = [asyncio.create_task(read(number)) for number in range(WATCHERS)]
        await until(lambda: all(seen), 30)
        assert await watched_posts(watched) == 1
        for round_number in range(20):
            results = await likes.mutate(
                [Mutation.like(f"u{round_number}-{number}", post) for number in range(50)]
            )
        assert results[-1].like_count is not None
        last = results[-1].like_count.version
        await likes.like("last", post)  # wakes those who had the last one before it was known
        async with asyncio.timeout(30):
            await asyncio.gather(*reading)
        for call in calls:
            call.cancel()
    await _nobody_watches(watched)
