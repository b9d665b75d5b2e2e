"""LikeAdminService on a cluster, through ``likering counts``, ``likering posts`` and ``likering users``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import psycopg
import pytest

from likering import AsyncLikes, LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev.cluster import EmbeddedCluster
from likering.dev.ports import free_port
from likering.serving.status import from_rpc_error
from shard_node.packed_ids import pack
from tests.parts.ring_commands import Run, likering, output_of
from tests.parts.stored import EDGES
from tests.parts.user_side import CHUNKS, told

POSTS = [f"admin-{number}" for number in range(30)]
USERS = [f"user-{number}" for number in range(40)]


@pytest.fixture
def run(cluster: EmbeddedCluster) -> Run:
    """Runs ``likering …`` on the cluster; its stdin is no terminal."""
    return lambda *arguments: likering(cluster.admin_address, *arguments)


@pytest.fixture
def stub(cluster: EmbeddedCluster) -> Iterator[LikeAdminServiceStub]:
    with grpc.insecure_channel(cluster.admin_address) as channel:
        yield LikeAdminServiceStub(channel)


def skew(cluster: EmbeddedCluster, posts: dict[str, int]) -> None:
    """Makes the stored counts of posts wrong by so much, wherever they are."""
    changed = 0
    for node in cluster.nodes.values():
        with psycopg.connect(
            node.postgres_dsn, autocommit=True, options="-csearch_path=likering"
        ) as connection:
            for post, by in posts.items():
                cursor = connection.execute(
                    "UPDATE posts SET like_count = like_count + %s WHERE post_id = %s", [by, pack(post)]
                )
                changed += cursor.rowcount
    assert changed == len(posts)


@asynccontextmanager
async def likes_going_on(cluster: EmbeddedCluster) -> AsyncIterator[None]:
    """Until the end of the ``async with`` somebody likes and unlikes all posts."""
    ended = asyncio.Event()

    async def toggle(likes: AsyncLikes) -> None:
        while not ended.is_set():
            for act in (likes.like, likes.unlike):
                await asyncio.gather(*(act(f"passing-{n}", post) for post in POSTS for n in range(3)))

    async with AsyncLikes(cluster.address, timeout=10.0) as likes:
        toggling = asyncio.create_task(toggle(likes))
        try:
            yield
        finally:
            ended.set()
            await toggling


async def test_wrong_counts_are_found_and_mended_while_likes_go_on(
    cluster: EmbeddedCluster, run: Run
) -> None:
    async with AsyncLikes(cluster.address) as likes:
        for post in POSTS:
            await likes.mutate([Mutation.like(user, post) for user in USERS[:20]])
        await likes.like_count(POSTS[3])  # cached from now on
    wrong = {POSTS[3]: 5, POSTS[7]: -2}
    async with likes_going_on(cluster):
        assert output_of(await asyncio.to_thread(run, "counts", "verify", "-o", "json"))["drifts"] == []
        assert (await asyncio.to_thread(run, "counts", "repair", "--yes")).exit_code == 3
        skew(cluster, wrong)
        found = output_of(await asyncio.to_thread(run, "counts", "verify", "-o", "json"), code=1)
        assert {
            one["post_id"]: one["stored_count"] - one["counted_likes"] for one in found["drifts"]
        } == wrong
        assert found["progress"]["slots_done"] == found["progress"]["slots_total"] == 64
        refused = await asyncio.to_thread(run, "counts", "repair")
        assert refused.exit_code == 4
        assert POSTS[3] in refused.stdout
        assert "Mend these 2 counts?" in refused.stderr
        tried = output_of(await asyncio.to_thread(run, "counts", "repair", "--dry-run", "-o", "json"))
        assert [one["count"] for one in tried["repairs"]] == [None, None]
        mended = output_of(await asyncio.to_thread(run, "counts", "repair", "--yes", "-o", "json"))
        assert {one["drift"]["post_id"] for one in mended["repairs"]} == set(wrong)
        for one in mended["repairs"]:
            assert one["version"] > one["drift"]["version"]
        assert (await asyncio.to_thread(run, "counts", "verify", "--rate", "0")).exit_code == 0
    with LikeTracker(cluster.address) as tracker:
        assert [tracker.like_count(post) for post in POSTS] == [20] * len(POSTS)


def test_one_slot_at_a_low_rate(cluster: EmbeddedCluster, run: Run, stub: LikeAdminServiceStub) -> None:
    output = run("counts", "verify", "--slot", "3", "--slot", "5", "--rate", "100000")
    assert output.exit_code == 0, output.output
    assert "in 2 slots" in output.stdout
    for request in (api.VerifyCountsRequest(slots=[64]), api.VerifyCountsRequest(rows_per_second=-1)):
        with pytest.raises(grpc.RpcError) as failure:
            list(stub.VerifyCounts(request))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_hot_posts_of_all_nodes_are_listed_together(cluster: EmbeddedCluster, run: Run) -> None:
    hot = [f"hot-{number}" for number in range(6)]
    with LikeTracker(cluster.address) as tracker:
        for number, post in enumerate(hot):
            tracker.mutate([Mutation.like(f"u{n}", post) for n in range(900 + number)])
            for _ in range(len(hot) - number):
                tracker.like_count(post)
    listed = output_of(run("posts", "hot", "-n", "6", "-o", "json"))
    assert [post["post_id"] for post in listed["posts"]] == hot[::-1]
    assert listed["posts"][0]["writes"] >= 905
    assert listed["unreachable"] == []
    assert {post["node"] for post in listed["posts"]} <= set(cluster.nodes)
    assert 0 < listed["seconds"] <= 60
    by_reads = output_of(run("posts", "hot", "-n", "1000", "--by", "reads", "-o", "json"))["posts"]
    assert [post["post_id"] for post in by_reads if post["post_id"] in hot] == hot
    assert hot[-1] in run("posts", "hot").stdout
    assert run("posts", "hot", "-n", "1001").exit_code == 2


def test_a_post_is_purged_after_a_question(cluster: EmbeddedCluster, run: Run) -> None:
    with LikeTracker(cluster.address) as tracker:
        tracker.mutate([Mutation.like(user, "gone") for user in USERS])
        tracker.unlike(USERS[0], "gone")
        assert output_of(run("posts", "purge", "gone", "--dry-run", "-o", "json")) == {
            "likes": 39,
            "edges": 40,
        }
        refused = run("posts", "purge", "gone")
        assert refused.exit_code == 4
        assert "39 likes and 1 remembered unlikes. Erase them for good?" in refused.stderr
        assert tracker.like_count("gone") == 39
        (receipt,) = output_of(run("posts", "purge", "gone", "--yes", "-o", "json"))["receipts"]
        assert receipt["edges_erased"] == 40
        assert receipt["version"] == 41 + 39
        assert receipt["node"] in cluster.nodes
        assert tracker.like_count("gone") == 0
        assert not tracker.has_liked(USERS[1], "gone")
        assert list(tracker.likers("gone")) == []
        # The purge has waited until the users' side knew.
        assert [like.post_id for like in tracker.liked_posts(USERS[1]) if like.post_id == "gone"] == []
        again = run("posts", "purge", "gone", "--yes", "-o", "json")
        assert output_of(again, code=3)["receipts"] == [receipt]
        assert tracker.like(USERS[1], "gone")
        assert tracker.like_count("gone") == 1
    logs = [log.read_text() for log in (cluster.directory / "logs").glob("router*.log")]
    assert any("post purged" in log for log in logs)


def rows_of(cluster: EmbeddedCluster, user: str) -> tuple[int, int]:
    """Edges of a user, and edges that were told of one, that any node's database has."""
    edges = listed = 0
    for node in cluster.nodes.values():
        with psycopg.connect(node.postgres_dsn, options="-csearch_path=likering") as connection:
            row = connection.execute(f"SELECT count(*) FROM {EDGES} WHERE user_id = %s", [user]).fetchone()
            assert row is not None
            edges += row[0]
            listed += sum(like.user_id == user for like in told(connection.execute(CHUNKS)))
    return edges, listed


def test_a_user_is_purged_after_a_question(cluster: EmbeddedCluster, run: Run) -> None:
    posts = [f"of-user-{number}" for number in range(90)]
    with LikeTracker(cluster.address) as tracker:
        tracker.mutate([Mutation.like(user, post) for post in posts for user in ("leaver", "stayer")])
        tracker.unlike("leaver", posts[0])
        before = [tracker.like_count(post) for post in posts]
        estimates = output_of(run("users", "purge", "leaver", "--dry-run", "-o", "json"))["estimates"]
        assert {one["node"] for one in estimates} == set(cluster.nodes)
        assert [sum(one[name] for one in estimates) for name in ("slots", "likes", "edges")] == [64, 89, 90]
        assert "89 likes and 1 remembered unlikes" in run("users", "purge", "leaver", "--dry-run").stdout
        refused = run("users", "purge", "leaver")
        assert refused.exit_code == 4
        assert "Erase them for good?" in refused.stderr
        assert [tracker.like_count(post) for post in posts] == before == [1] + [2] * 89
        assert rows_of(cluster, "leaver")[0] == 90
        receipts = output_of(run("users", "purge", "leaver", "--yes", "-o", "json"))["receipts"]
        assert {one["node"] for one in receipts} == set(cluster.nodes)
        assert [sum(one[name] for one in receipts) for name in ("slots", "edges_erased")] == [64, 90]
        assert sum(one["list_rows_erased"] for one in receipts) == 90
        assert all(one["purge_time"] for one in receipts)
        assert rows_of(cluster, "leaver") == (0, 0)
        assert rows_of(cluster, "stayer") == (90, 90)
        assert [tracker.like_count(post) for post in posts] == [1] * 90
        assert list(tracker.liked_posts("leaver")) == []
        assert not tracker.has_liked("leaver", posts[1])
        again = run("users", "purge", "leaver", "--yes", "-o", "json")
        assert [one["edges_erased"] for one in output_of(again, code=3)["receipts"]] == [0, 0, 0]
        assert tracker.like("leaver", posts[1])
        assert tracker.like_count(posts[1]) == 2
    assert run("counts", "verify", "--rate", "0").exit_code == 0
    assert run("users", "purge", "x" * 129, "--yes").exit_code == 4
    logs = [log.read_text() for log in (cluster.directory / "logs").glob("router*.log")]
    assert any("user purged" in log for log in logs)


def test_what_is_no_post_is_refused(stub: LikeAdminServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        list(stub.PurgePost(api.PurgePostRequest(post_id="x" * 129)))
    assert from_rpc_error(failure.value).reason == "ID_TOO_LONG"


def test_a_router_that_is_away_is_told(run: Run) -> None:
    for arguments in (
        ("counts", "verify"),
        ("posts", "hot"),
        ("posts", "purge", "p", "--yes"),
        ("users", "purge", "u"),
    ):
        result = likering(f"127.0.0.1:{free_port()}", *arguments)
        assert result.exit_code == 1
        assert "operators are served where --admin-listen says" in result.stderr
