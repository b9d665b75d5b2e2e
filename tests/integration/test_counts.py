"""Counts are compared and mended on a real Postgres, while likes go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from likering.shard.v1.shard_service_pb2 import OP_CODE_NOT_OWNER, OP_CODE_UNAVAILABLE
from shard_node.admin import slot_reads
from shard_node.admin.counts import Measured, MendCounts
from shard_node.admin.slot_reads import SlotReads
from shard_node.maintenance import SlotRefused
from shard_node.packed_ids import pack
from tests.integration.admin_node import AdminNode, admin_node, posts_in
from tests.integration.node_database import EPOCH

SLOT = 3
POSTS = posts_in(SLOT, 12)
USERS = [f"u{number:03}" for number in range(30)]


@pytest.fixture
async def node(database: str) -> AsyncIterator[AdminNode]:
    """Post n has n likes, and one user has taken a like back."""
    async with admin_node(database) as node:
        for number, post in enumerate(POSTS):
            await node.write(*((True, post, user) for user in USERS[: number + 1]))
            await node.write((False, post, USERS[0]))
        yield node


async def skew(node: AdminNode, post: str, by: int) -> None:
    await node.connection.execute(
        "UPDATE posts SET like_count = like_count + %s WHERE post_id = %s", [by, pack(post)]
    )


async def verified(node: AdminNode, limit: int) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Stored and counted by post, of a whole slot; how many posts and likes were looked at."""
    found: dict[str, tuple[int, int]] = {}
    posts = likes = 0
    after: int | None = 0
    while after is not None:
        piece = await node.counts.verify(SLOT, EPOCH, after, limit)
        found |= {one.post_id: (one.stored, one.counted) for one in piece.drifts}
        posts, likes, after = posts + piece.posts, likes + piece.likes, piece.last
    return found, posts, likes


async def test_each_wrong_count_is_found_in_pieces_of_any_size(node: AdminNode) -> None:
    """Too high, too low, a row of likes that are gone, and likes whose row is gone: whose they were nobody knows."""
    sizes = (1, 5, 17, 1000)
    for limit in sizes:
        assert await verified(node, limit) == ({}, 12, 66)
    await skew(node, POSTS[3], 2)
    await skew(node, POSTS[11], -1)
    await node.connection.execute(
        "DELETE FROM edges WHERE (slot, post_no) = (SELECT slot, post_no FROM posts WHERE post_id = %s)",
        [pack(POSTS[7])],
    )
    await node.connection.execute("DELETE FROM posts WHERE post_id = %s", [pack(POSTS[5])])
    for limit in sizes:
        found, _, likes = await verified(node, limit)
        assert found == {POSTS[3]: (5, 3), POSTS[11]: (10, 11), "": (0, 5), POSTS[7]: (7, 0)}
        assert likes == 66 - 7
        assert node.registry.get_sample_value("likering_counts_drifted_posts") == 4
    await node.counts.repair(SLOT, EPOCH, POSTS)
    assert (await verified(node, 100))[0] == {"": (0, 5)}


async def test_likes_that_come_meanwhile_explain_nothing_and_hide_nothing(node: AdminNode) -> None:
    await skew(node, POSTS[3], 2)
    ended = asyncio.Event()

    async def toggle() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            await node.write(*((number % 2 == 1, post, f"passing-{n}") for post in POSTS for n in range(5)))

    toggling = asyncio.create_task(toggle())
    try:
        for _ in range(30):
            found, _, _ = await verified(node, 20)
            assert {post: stored - counted for post, (stored, counted) in found.items()} == {POSTS[3]: 2}
        mended = await node.counts.repair(SLOT, EPOCH, POSTS)
        assert set(mended) == {POSTS[3]}
        for _ in range(10):
            assert (await verified(node, 20))[0] == {}
    finally:
        ended.set()
        await toggling
    assert (await verified(node, 20))[0] == {}


async def test_a_repair_makes_the_next_version_and_tells_the_cache(node: AdminNode) -> None:
    before = {post: await node.post(post) for post in POSTS}
    await skew(node, POSTS[3], 2)
    await skew(node, POSTS[4], -4)
    await verified(node, 100)
    mended = await node.counts.repair(SLOT, EPOCH, POSTS)
    assert mended == {
        post: (before[post]["version"] + 1, before[post]["likes"]) for post in (POSTS[3], POSTS[4])
    }
    for post in POSTS:
        now = await node.post(post)
        assert now["count"] == now["likes"] == before[post]["likes"]
        assert now["version"] == before[post]["version"] + (post in mended)
    assert {post: node.published[post] for post in mended} == mended
    assert node.registry.get_sample_value("likering_counts_drifted_posts") == 0
    assert await node.counts.repair(SLOT, EPOCH, POSTS) == {}


async def test_what_was_measured_is_applied_only_where_it_is_still_so(node: AdminNode) -> None:
    """Another process may have mended it meanwhile, or a purge has set the count right."""
    await skew(node, POSTS[3], 2)
    now = node.leadership.fence.generation
    for generation, count in ((now - 1, 5), (now, 3)):
        work = MendCounts(SLOT, EPOCH, {POSTS[3]: Measured(2, None)}, node.leadership, generation)
        await node.writer.maintain(work)
        assert work.outdated is (generation != now)
        assert (await node.post(POSTS[3]))["count"] == count
    await node.connection.execute("UPDATE posts SET purged_rev = 7 WHERE post_id = %s", [pack(POSTS[3])])
    work = MendCounts(SLOT, EPOCH, {POSTS[3]: Measured(2, None)}, node.leadership, now)
    await node.writer.maintain(work)
    assert work.posts == {}


async def test_a_look_that_takes_too_long_is_ended_in_the_database(
    node: AdminNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is free for callers again, and no snapshot stays behind."""
    monkeypatch.setattr(slot_reads, "READ_TIMEOUT", 0.2)
    reads = SlotReads(node.pool, node.ownership, node.leadership)
    with pytest.raises(SlotRefused) as refusal:
        await reads.read(SLOT, EPOCH, lambda connection: connection.execute("SELECT pg_sleep(60)"))
    assert refusal.value.code == OP_CODE_UNAVAILABLE
    cursor = await node.connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'likering-reads' AND state <> 'idle'"
        " AND datname = current_database()"
    )
    assert await cursor.fetchone() == (0,)
    assert await verified(node, 1000) == ({}, 12, 66)


async def test_a_slot_of_another_epoch_is_not_looked_at(node: AdminNode) -> None:
    with pytest.raises(SlotRefused) as refusal:
        await node.counts.verify(SLOT, EPOCH + 1, 0, 10)
    assert refusal.value.code == OP_CODE_NOT_OWNER
    with pytest.raises(SlotRefused):
        await node.counts.repair(SLOT, EPOCH + 1, POSTS)
