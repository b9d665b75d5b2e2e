"""Nodes prove their counts by themselves, while likes go on, slots move, posts are erased and a node dies."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from likering import AsyncLikes, Mutation
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev.cluster import EmbeddedCluster
from shard_node.packed_ids import pack
from tests.parts.metrics import address_in, scrape
from tests.parts.resizing import Resizing

pytestmark = pytest.mark.timeout(180)

SLOTS = 16
INTERVAL = 0.2
"""Seconds: slots are gone over again and again."""
POSTS = [f"post-{number}" for number in range(48)]
USERS = [f"user-{number}" for number in range(12)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedCluster]:
    """Of two nodes that tell of their counts."""
    monkeypatch.setenv("LIKERING_NODE_VERIFY_INTERVAL", str(INTERVAL))
    monkeypatch.setenv("LIKERING_NODE_METRICS_LISTEN", "127.0.0.1:0")
    with EmbeddedCluster(tmp_path / "data", nodes=["a", "b"], slots=SLOTS) as cluster:
        yield cluster


def told(cluster: EmbeddedCluster, name: str) -> dict[str, float]:
    """A metric of each node; 0 of one that knows nothing yet."""
    logs = cluster.directory / "logs"
    return {
        node: sum(
            sample.value
            for sample in scrape(address_in(logs / f"{node}-node.log"))
            if sample.name == f"likering_counts_{name}"
        )
        for node in cluster.nodes
    }


async def drifted(cluster: EmbeddedCluster, posts: int) -> None:
    """Returns when so many posts are told of as wrong."""
    async with asyncio.timeout(30):
        while sum((await asyncio.to_thread(told, cluster, "drifted_posts")).values()) != posts:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # no event tells


async def gone_over(cluster: EmbeddedCluster, *nodes: str) -> None:
    """Returns when these nodes have compared all their counts since now."""
    now = time.time()
    async with asyncio.timeout(60):
        while True:
            since = await asyncio.to_thread(told, cluster, "verified_since_timestamp_seconds")
            if min(since[node] for node in nodes) > now:
                return
            await asyncio.sleep(0.1)


def skew(cluster: EmbeddedCluster, post: str, by: int) -> None:
    """Makes the stored count of a post wrong by so much, wherever it is."""
    changed = 0
    for node in cluster.nodes.values():
        with psycopg.connect(node.postgres_dsn, options="-csearch_path=likering") as connection:
            statement = "UPDATE posts SET like_count = like_count + %s WHERE post_id = %s"
            changed += connection.execute(statement, [by, pack(post)]).rowcount
    assert changed == 1


async def test_counts_are_proved_whatever_goes_on(cluster: EmbeddedCluster) -> None:
    """Nothing is found that is not wrong; what is wrong is found without being asked for, also after a crash."""
    with grpc.insecure_channel(cluster.admin_address) as channel:
        admin = LikeAdminServiceStub(channel)
        async with Resizing(cluster) as resizing, AsyncLikes(cluster.address, timeout=30.0) as likes:
            await resizing.moves.set_limits(
                rows_per_second=0, pause_budget_ms=1000, verify_rows_per_second=10**6
            )
            await likes.mutate([Mutation.like(user, post) for user in USERS for post in POSTS])
            ended = asyncio.Event()

            async def toggle() -> None:
                while not ended.is_set():
                    for act in (Mutation.like, Mutation.unlike):
                        await likes.mutate(
                            [act(f"passing-{n}", post) for n in range(5) for post in POSTS[1:]]
                        )

            toggling = asyncio.create_task(toggle())
            try:
                await gone_over(cluster, "a", "b")
                await asyncio.to_thread(cluster.add_node, "c")
                resize, _ = await resizing.begin()
                purge = api.PurgePostRequest(post_id=POSTS[0])
                await asyncio.to_thread(lambda: list(admin.PurgePost(purge)))
                await asyncio.to_thread(lambda: list(admin.PurgeUser(api.PurgeUserRequest(user_id=USERS[0]))))
                await resizing.settled(resize)
                await gone_over(cluster, "a", "b", "c")
                await drifted(cluster, 0)
                await asyncio.to_thread(skew, cluster, POSTS[7], 3)
                await drifted(cluster, 1)
            finally:
                ended.set()
                await toggling
            logs = [(cluster.directory / "logs" / f"{node}-node.log").read_text() for node in cluster.nodes]
            named = [line for log in logs for line in log.splitlines() if "not the numbers of likes" in line]
            assert all(f'"{POSTS[7]}"' in line for line in named)
            # Switched off, nothing is looked at; a process that starts knows of no wrong count.
            await resizing.moves.set_limits(verify_rows_per_second=0)
            for node in ("a", "b", "c"):
                cluster.kill(node, "node", signal.SIGKILL)
            await likes.mutate([Mutation.like("later", post) for post in POSTS])
            await drifted(cluster, 0)
            await resizing.moves.set_limits(verify_rows_per_second=10**6)
            await drifted(cluster, 1)
            responses = await asyncio.to_thread(lambda: list(admin.RepairCounts(api.RepairCountsRequest())))
            assert [one.drift.post_id for found in responses for one in found.repairs] == [POSTS[7]]
            await gone_over(cluster, "a", "b", "c")
            await drifted(cluster, 0)
