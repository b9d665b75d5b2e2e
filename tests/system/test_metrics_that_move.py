"""Metrics of what happens seldom follow it on a real cluster: a lagging feed, a wrong count, open streams, a resize."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import psycopg
import pytest

from likering import AsyncLikes, LikeTracker
from likering.admin.v1 import like_admin_service_pb2 as admin
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev.cluster import EmbeddedCluster
from likering.ring.hashing import slot_of
from shard_node.packed_ids import pack
from tests.parts.metrics import address_in, scrape, value
from tests.parts.resizing import Resizing
from tests.parts.until import until

pytestmark = pytest.mark.timeout(240)

SLOTS = 8
IDS = [f"id-{number}" for number in range(100)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Of two nodes, which tell their metrics."""
    with pytest.MonkeyPatch.context() as patch:
        for prefix in ("LIKERING_NODE_", "LIKERING_ROUTER_"):
            patch.setenv(f"{prefix}METRICS_LISTEN", "127.0.0.1:0")
        with EmbeddedCluster(tmp_path_factory.mktemp("moving"), nodes=2, slots=SLOTS) as cluster:
            yield cluster


def told(cluster: EmbeddedCluster, process: str, name: str, **labels: str) -> float:
    """A metric of ``router`` or of a node, just now."""
    log = cluster.directory / "logs" / (f"{process}.log" if process == "router" else f"{process}-node.log")
    return value(scrape(address_in(log)), name, **labels)


async def owners(cluster: EmbeddedCluster) -> Sequence[str | None]:
    async with Resizing(cluster) as resizing:
        return (await resizing.nodes.get()).owners


async def test_the_lag_of_users_lists_grows_while_their_owner_is_away(cluster: EmbeddedCluster) -> None:
    of = await owners(cluster)
    post = next(one for one in IDS if of[slot_of(one, SLOTS)] == "a")
    user = next(one for one in IDS if of[slot_of(one, SLOTS)] == "b")

    def lag() -> float:
        return told(cluster, "a", "likering_user_feed_lag_seconds", destination="b")

    await asyncio.to_thread(cluster.stop_node, "b")
    async with AsyncLikes(cluster.address) as likes:
        await likes.like(user, post)
    await until(lambda: lag() > 1.0)
    await asyncio.to_thread(cluster.start_node, "b")
    await until(lambda: lag() == 0.0, 60.0)
    assert told(cluster, "a", "likering_user_feed_lag_seconds", destination="a") == 0.0


def test_a_count_that_is_wrong_is_told_until_it_is_mended(cluster: EmbeddedCluster) -> None:
    with LikeTracker(cluster.address) as likes:
        owner = next(node for node in cluster.nodes if _likes_at(cluster, node, likes))
    with psycopg.connect(cluster.nodes[owner].postgres_dsn, options="-csearch_path=likering") as connection:
        done = connection.execute(
            "UPDATE posts SET like_count = like_count + 2 WHERE post_id = %s", [pack("wrong")]
        )
        assert done.rowcount == 1
    before = told(cluster, owner, "likering_counts_verified_posts_total")
    assert told(cluster, owner, "likering_counts_drifted_posts") == 0
    with grpc.insecure_channel(cluster.admin_address) as channel:
        operator: Any = LikeAdminServiceStub(channel)
        list(operator.VerifyCounts(admin.VerifyCountsRequest()))
        assert told(cluster, owner, "likering_counts_drifted_posts") == 1
        assert told(cluster, owner, "likering_counts_verified_posts_total") > before
        list(operator.RepairCounts(admin.RepairCountsRequest()))
    assert told(cluster, owner, "likering_counts_drifted_posts") == 0
    assert told(cluster, owner, "likering_counts_repaired_posts_total") == 1


def _likes_at(cluster: EmbeddedCluster, node: str, likes: LikeTracker) -> bool:
    """Whether a like of the post ``wrong`` is committed there."""
    before = told(cluster, node, "likering_writer_operations_total")
    likes.like(f"user-of-{node}", "wrong")
    return told(cluster, node, "likering_writer_operations_total") > before


async def test_streams_are_told_while_they_are_open(cluster: EmbeddedCluster) -> None:
    of = await owners(cluster)
    owner = str(of[slot_of("watched", SLOTS)])
    watch = {"grpc_method": "WatchLikeCounts", "grpc_type": "server_stream"}
    async with AsyncLikes(cluster.address) as likes:
        async for _ in likes.watch(["watched"]):
            assert told(cluster, owner, "likering_watched_posts") == 1
            assert told(cluster, "router", "grpc_server_started_total", **watch) == 1
            break
    await until(lambda: told(cluster, owner, "likering_watched_posts") == 0)
    await until(
        lambda: any(
            one.name == "grpc_server_handled_total" and watch.items() <= one.labels.items()
            for one in scrape(address_in(cluster.directory / "logs" / "router.log"))
        )
    )


async def test_a_resize_is_told_by_the_nodes_that_take_part(cluster: EmbeddedCluster) -> None:
    """Each move with its steps and its pause, the slots where they are now, and what they hold."""
    async with AsyncLikes(cluster.address) as likes:
        await asyncio.gather(*(likes.like("user", post) for post in IDS))
    version = told(cluster, "router", "likering_topology_version")
    async with Resizing(cluster) as resizing:
        await resizing.add("c")
        resize, plan = await resizing.begin()
        await resizing.settled(resize)
    assert plan.moved > 0
    assert told(cluster, "c", "likering_moves_reached_total", state="active") == plan.moved
    assert told(cluster, "c", "likering_moves_reached_total", state="freezing") >= plan.moved
    assert told(cluster, "c", "likering_move_pause_seconds_count") == plan.moved
    assert told(cluster, "c", "likering_node_slots", state="owner") == plan.moved
    await until(
        lambda: (
            sum(told(cluster, node, "likering_node_slots", state="owner") for node in cluster.nodes) == SLOTS
        )
    )
    assert told(cluster, "router", "likering_topology_version") > version
    assert told(cluster, "router", "likering_router_node_connected", node="c") == 1
    # By the statistics, at which a node looks every 15 s.
    await until(lambda: told(cluster, "c", "likering_node_rows") > 0, 60.0)
    moved = {str(move.slot) for move in plan.moves}
    slots = {
        one.labels["slot"]
        for one in scrape(address_in(cluster.directory / "logs" / "c-node.log"))
        if one.name == "likering_slot_rows"
    }
    assert slots == moved
