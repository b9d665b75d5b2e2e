"""The change feed while slots move, a node is killed and its consumer starts again: nothing is missed or goes back."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from likering import Action, AsyncLikes, LikeEvent, Mutation
from likering.dev.cluster import EmbeddedCluster
from tests.parts.resizing import Resizing

pytestmark = pytest.mark.timeout(180)

POSTS = [f"post-{number}" for number in range(48)]
USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Of two nodes; a third one joins."""
    with EmbeddedCluster(tmp_path, nodes=2, slots=16) as cluster:
        yield cluster


class Consumer:
    """Folds events into last states, and forgets nothing but its stream."""

    def __init__(self) -> None:
        self.cursor = ""
        self.starts = 0
        self.events = 0
        self.last: dict[tuple[str, str], LikeEvent] = {}
        self.first: set[tuple[str, str]] = set()
        self._versions: dict[str, int] = {}

    async def consume(self, address: str, seed: int) -> None:
        """Follows the feed; now and then it drops its stream and begins again from its cursor."""
        choose = random.Random(seed)
        async with AsyncLikes(address) as likes:
            while True:
                self.starts += 1
                left = choose.randrange(2, 12)
                async with aclosing(
                    likes.events(cursor=self.cursor, max_batch=choose.choice((1, 7, 0)))
                ) as batches:
                    async for batch in batches:
                        for event in batch:
                            self.take(event)
                        self.cursor = batch.cursor
                        left -= 1
                        if not left:
                            break

    def take(self, event: LikeEvent) -> None:
        self.events += 1
        edge = event.post_id, event.user_id
        before = self.last.get(edge)
        if before is not None:
            assert before.like_time <= event.like_time, edge
            assert before.liked is event.liked or before.like_time < event.like_time, edge
        version = event.like_count.version
        assert version >= self._versions.get(event.post_id, 0), event
        self._versions[event.post_id] = version
        if event.first_like:
            assert edge not in self.first, f"the first like of {edge} was told of twice"
            self.first.add(edge)
        self.last[edge] = event


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
                "SELECT post_id, user_id, liked, timestamptz 'epoch' + rev * interval '1 microsecond' FROM edges"
                " JOIN slots USING (slot) WHERE slots.state = 'owner' AND first_rev IS NOT NULL"
            ).fetchall()
        for post_id, user_id, liked, since in rows:
            assert (post_id, user_id) not in found
            found[post_id, user_id] = liked, since
    return found
