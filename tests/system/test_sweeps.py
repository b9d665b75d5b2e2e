"""Tombstones go, while slots move and a node dies at it; who may have missed an end is told so, and nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from likering import AsyncLikes, CursorExpired, IntentTooOld, LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev import part as supervision
from likering.dev.cluster import EmbeddedCluster
from likering.ring.hashing import slot_of
from tests.parts.consumer import Consumer
from tests.parts.node_at_failpoint import DIRECTORY, Failpoints
from tests.parts.resizing import Resizing
from tests.parts.stored import stored_in
from tests.parts.until import until
from tests.parts.user_side import differences

pytestmark = pytest.mark.timeout(180)

SLOTS = 16
RETENTION = 6
"""Seconds: a consumer that reads along is never so far behind."""
POSTS = [f"post-{number}" for number in range(48)]
USERS = [f"user-{number}" for number in range(12)]
ENDING = [post for post in POSTS if slot_of(post, SLOTS) % 2]
"""Posts of slots in which likes end; in the others none does."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedCluster]:
    """Of two nodes that remember unlikes for some seconds, and stand still and die as the test wants."""
    (tmp_path / "failpoints").mkdir()
    monkeypatch.setenv("LIKERING_NODE_TOMBSTONE_RETENTION", str(RETENTION))
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "failpoints"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.setattr(supervision, "_STEADY_SECONDS", 0.0)
    with EmbeddedCluster(
        tmp_path / "data", nodes=2, slots=SLOTS, node_module="tests.parts.node_at_failpoint"
    ) as cluster:
        yield cluster


async def test_unlikes_go_and_consumers_know_what_there_is_or_that_they_do_not(
    cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    failpoints = Failpoints(tmp_path / "failpoints")
    away, along = Consumer(), Consumer()
    async with Resizing(cluster) as resizing, AsyncLikes(cluster.address, timeout=30.0) as likes:
        await resizing.moves.set_limits(
            slots_at_once=2, rows_per_second=0, pause_budget_ms=1000, grace_seconds=0
        )
        await likes.mutate([Mutation.like(user, post) for user in USERS for post in POSTS])
        await away.read_some(cluster.address, len(USERS) * len(POSTS))
        following = asyncio.create_task(along.consume(cluster.address, 3))
        await asyncio.to_thread(cluster.add_node, "c")
        await until(lambda: len(along.last) == len(USERS) * len(POSTS), 30)
        failpoints.arm("a", "swept")
        # Some of these go from where they ended, some from where their slots have moved to.
        await likes.mutate([Mutation.unlike(user, post) for user in USERS[:4] for post in ENDING])
        await failpoints.held("a")
        cluster.kill("a", "node", signal.SIGKILL)
        failpoints.release("a")
        assert await asyncio.to_thread(_tombstones, cluster) > 0
        resize, _ = await resizing.begin()
        moves = await resizing.settled(resize)
        assert {move.slot % 2 for move in moves} == {0, 1}
        await likes.mutate([Mutation.unlike(user, post) for user in USERS[4:6] for post in ENDING])
        await resizing.drain("c")
        resize, _ = await resizing.begin()
        await resizing.settled(resize)
        assert await resizing.cleaned() == []
        await _swept(cluster)
        left = {(post, user) for post in POSTS for user in USERS if post not in ENDING or user in USERS[6:]}
        dsns = [node.postgres_dsn for node in cluster.nodes.values()]
        assert (await stored_in(dsns, POSTS)).liked == left
        # Who read along knows of each end, who comes now has no ends to know of; who was away is told.
        beginning = Consumer()
        await beginning.read_some(cluster.address, len(left))
        for consumer in (along, beginning):
            await _knows(consumer, left)
        assert len(along.last) == len(away.last) > len(beginning.last)
        following.cancel()
        await asyncio.wait((following,))
        with pytest.raises(CursorExpired) as caught:
            await away.read_some(cluster.address, 10**6)
        assert int(caught.value.metadata["slot"]) % 2
        with pytest.raises(CursorExpired):
            await asyncio.to_thread(_read_one, cluster.address, away.cursor, [])
        # Nothing has ended in the other slots, so it goes on there.
        await likes.like("new", next(post for post in POSTS if post not in ENDING))
        even = [slot for slot in range(SLOTS) if slot % 2 == 0]
        assert await asyncio.to_thread(_read_one, cluster.address, away.cursor, even) == "new"
        # A like that is older than an unlike which nobody remembers does not bring anything back.
        with pytest.raises(IntentTooOld):
            await likes.like(USERS[0], ENDING[0], intent_time=1)
        assert await likes.like(USERS[0], ENDING[0])
    assert await asyncio.to_thread(_drifted, cluster) == []
    async with asyncio.timeout(20):
        while await differences(dsns):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)


async def _knows(consumer: Consumer, liked: set[tuple[str, str]]) -> None:
    """Returns when these are the likes that the consumer knows of."""
    await until(lambda: {edge for edge, event in consumer.last.items() if event.liked} == liked)


def _read_one(address: str, cursor: str, slots: list[int]) -> str:
    with LikeTracker(address) as likes:
        batches = likes.events(cursor=cursor, slots=slots)
        return next(event for batch in batches for event in batch).user_id


async def _swept(cluster: EmbeddedCluster) -> None:
    """Returns when all that has ended is gone."""
    async with asyncio.timeout(60):
        while await asyncio.to_thread(_tombstones, cluster):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.1)


def _tombstones(cluster: EmbeddedCluster) -> int:
    """In the databases of the slots' owners."""
    found = 0
    for node in cluster.nodes.values():
        with psycopg.connect(node.postgres_dsn, options="-csearch_path=likering") as connection:
            row = connection.execute(
                "SELECT count(*) FROM edges JOIN slots USING (slot) WHERE slots.state = 'owner' AND NOT liked"
            ).fetchone()
        assert row is not None
        found += row[0]
    return found


def _drifted(cluster: EmbeddedCluster) -> list[str]:
    """Posts whose count is not their number of likes."""
    with grpc.insecure_channel(cluster.admin_address) as channel:
        admin = LikeAdminServiceStub(channel)
        responses = list(admin.VerifyCounts(api.VerifyCountsRequest()))
    return [drift.post_id for response in responses for drift in response.drifts]
