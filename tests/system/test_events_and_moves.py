"""The change feed while slots move, a node is killed and its consumer starts again: nothing is missed or goes back."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import grpc
import psycopg
import pytest

from likering import Action, AsyncLikes, Mutation
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev.cluster import EmbeddedCluster
from likering.ring.hashing import slot_of
from tests.parts.consumer import Consumer
from tests.parts.resizing import Resizing
from tests.parts.stored import EDGES

pytestmark = pytest.mark.timeout(180)

POSTS = [f"post-{number}" for number in range(48)]
USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Of two nodes; a third one joins."""
    with EmbeddedCluster(tmp_path, nodes=2, slots=16) as cluster:
        yield cluster


async def test_what_a_consumer_knows_in_the_end_is_what_the_databases_hold(cluster: EmbeddedCluster) -> None:
    consumer = Consumer()
    async with Resizing(cluster) as resizing, AsyncLikes(cluster.address, timeout=30.0) as likes:
        await resizing.moves.set_limits(slots_at_once=2, rows_per_second=0, pause_budget_ms=1000)
        moved = asyncio.Event()
        consuming = asyncio.create_task(consumer.consume(cluster.address, 5))
        toggling = asyncio.create_task(_toggle_until(likes, moved))
        try:
            await asyncio.to_thread(cluster.add_node, "c")
            resize, _ = await resizing.begin()
            await resizing.settled(resize)
            cluster.kill("a", "node", signal.SIGKILL)
            await resizing.drain("c")
            resize, _ = await resizing.begin()
            await resizing.settled(resize)
        finally:
            moved.set()
            await toggling
        stored = await asyncio.to_thread(_stored, cluster)
        async with asyncio.timeout(30):
            while {edge: (one.liked, one.like_time) for edge, one in consumer.last.items()} != stored:
                assert not consuming.done(), consuming.result()
                await asyncio.sleep(0.05)
        consuming.cancel()
        await asyncio.wait((consuming,))
    assert consumer.first == stored.keys()
    assert consumer.starts > 10
    assert consumer.events > len(stored)


async def test_who_was_away_while_posts_and_users_were_purged_and_slots_moved_knows_what_there_is(
    cluster: EmbeddedCluster,
) -> None:
    """Each consumer stops at another place; the last one begins when all is over."""
    everybody = [(post, user) for post in POSTS for user in USERS]
    consumers = [Consumer() for _ in range(4)]
    async with Resizing(cluster) as resizing, AsyncLikes(cluster.address, timeout=30.0) as likes:
        for part in range(2):
            await likes.mutate([Mutation.like(user, post) for post, user in everybody[part::2]])
        for part, consumer in enumerate(consumers[:-1]):
            await consumer.read_some(cluster.address, len(everybody) * (part + 1) // 3)
        assert consumers[2].last.keys() == set(everybody)
        await asyncio.to_thread(_purge, cluster, POSTS[:3], USERS[:2])
        # Some come back, some other likes end, and what was purged is purged again.
        await likes.mutate([Mutation.like(user, post) for user in USERS[:4] for post in POSTS[::2]])
        await likes.mutate([Mutation.unlike(user, post) for user in USERS[5:7] for post in POSTS[5:9]])
        await resizing.moves.set_limits(slots_at_once=2, rows_per_second=0, pause_budget_ms=1000)
        await asyncio.to_thread(cluster.add_node, "c")
        resize, _ = await resizing.begin()
        moves = await resizing.settled(resize)
        assert {move.slot for move in moves} & {slot_of(post, 16) for post in POSTS[:3]}
        await asyncio.to_thread(_purge, cluster, POSTS[2:3], USERS[1:2])
        await likes.like(USERS[1], POSTS[2])
        stored = await asyncio.to_thread(_stored, cluster)
        for consumer in consumers:
            consuming = asyncio.create_task(consumer.consume(cluster.address, 7))
            async with asyncio.timeout(30):
                while {edge: (one.liked, one.like_time) for edge, one in consumer.last.items()} != stored:
                    assert not consuming.done(), consuming.result()
                    await asyncio.sleep(0.05)
            consuming.cancel()
            await asyncio.wait((consuming,))
            assert consumer.first == stored.keys()
            assert consumer.purges


def _purge(cluster: EmbeddedCluster, posts: list[str], users: list[str]) -> None:
    with grpc.insecure_channel(cluster.admin_address) as channel:
        admin = LikeAdminServiceStub(channel)
        for post in posts:
            list(admin.PurgePost(api.PurgePostRequest(post_id=post)))
        for user in users:
            list(admin.PurgeUser(api.PurgeUserRequest(user_id=user)))


async def _toggle_until(likes: AsyncLikes, end: asyncio.Event) -> None:
    choose = random.Random(11)
    while not end.is_set():
        mutations = [
            Mutation(choose.choice(USERS), choose.choice(POSTS), choose.choice(list(Action)))
            for _ in range(30)
        ]
        results = await asyncio.gather(*(likes.apply(mutation) for mutation in mutations))
        assert all(result.error is None for result in results)


def _stored(cluster: EmbeddedCluster) -> dict[tuple[str, str], tuple[bool, datetime]]:
    """Post and user → liked and since when, of all that was ever liked, from the databases of the slots' owners."""
    found: dict[tuple[str, str], tuple[bool, datetime]] = {}
    for node in cluster.nodes.values():
        with psycopg.connect(
            node.postgres_dsn, options="-csearch_path=likering -ctimezone=UTC"
        ) as connection:
            rows = connection.execute(
                f"SELECT post_id, user_id, liked, timestamptz 'epoch' + rev * interval '1 microsecond' FROM {EDGES}"
                " JOIN slots USING (slot) WHERE slots.state = 'owner' AND first_rev IS NOT NULL"
            ).fetchall()
        for post_id, user_id, liked, since in rows:
            assert (post_id, user_id) not in found
            found[post_id, user_id] = liked, since
    return found
