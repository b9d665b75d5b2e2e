"""Likes from elsewhere on a real Postgres: what they change, and what they leave alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import OP_CODE_NOT_OWNER, OP_CODE_POST_BEING_PURGED
from shard_node import edge_store, store
from shard_node.admin.exports import Exported, SlotPlace, export
from shard_node.admin.imports import Imports, InsertLikes
from shard_node.admin.slot_reads import SlotReads
from shard_node.fold import PostChange
from shard_node.post_numbers import PostNumbers
from shard_node.purge_marks import PurgeMark
from shard_node.store import Place
from tests.integration.admin_node import AdminNode, admin_node, posts_in
from tests.integration.node_database import EPOCH, SLOTS

SLOT = 3
POST, OTHER = posts_in(SLOT, 2)
LONG_AGO = 1_400_000_000_000_000
NEWEST = Place(2**63 - 1, 2**63 - 1)

Like = tuple[str, str, int]
"""User, post, time."""


@pytest.fixture
async def node(database: str) -> AsyncIterator[AdminNode]:
    async with admin_node(database) as node:
        yield node


async def imported(node: AdminNode, likes: Sequence[Like], epoch: int = EPOCH) -> InsertLikes:
    users, posts, times = ([like[column] for like in likes] for column in range(3))
    imports = Imports(node.ownership, node.writer)
    return await imports.insert(posts, users, [epoch] * len(likes), times)  # type: ignore[arg-type]


async def likers(node: AdminNode, post: str = POST) -> list[tuple[str, int]]:
    _, likes = await store.list_likers(node.connection, slot_of(post, SLOTS), post, NEWEST, 100)
    return [(user, place.like_time) for user, place in likes]


async def exported(node: AdminNode, slot: int, limit: int) -> list[Exported]:
    reads = SlotReads(node.pool, node.ownership, node.leadership)
    found: list[Exported] = []
    after: SlotPlace | None = SlotPlace(0, 0, 0)
    while after is not None:
        page, after = await export(reads, slot, EPOCH, after, limit)
        found += page
    return found


async def test_likes_are_counted_and_listed_by_their_times(node: AdminNode) -> None:
    """Where times are the same, in the order in which they came; without a time, by when they came."""
    likes = [("u1", POST, 30), ("u2", POST, 10), ("u3", POST, 30), ("u4", POST, 0), ("u5", OTHER, 5)]
    done = await imported(node, likes)
    assert (done.refused, done.existing) == ({}, [])
    assert [user for user, _ in await likers(node)] == ["u4", "u3", "u1", "u2"]
    assert (await likers(node))[1:] == [("u3", 30), ("u1", 30), ("u2", 10)]
    row = await node.post(POST)
    assert (row["count"], row["version"], row["likes"]) == (4, 4, 4)
    assert node.published[POST] == (4, 4)
    liked = await edge_store.read_liked(
        node.connection, [POST, OTHER, POST], ["u1", "u5", "u5"], [SLOT] * 3, PostNumbers()
    )
    assert liked == {0: 30, 1: 5}


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pages_of_a_list_end_between_likes_of_one_time(node: AdminNode, size: int) -> None:
    await imported(node, [(f"u{n}", POST, 10 + n // 4) for n in range(10)])
    listed: list[str] = []
    before = NEWEST
    while True:
        _, page = await store.list_likers(node.connection, SLOT, POST, before, size)
        if not page:
            break
        listed += [user for user, _ in page]
        before = page[-1][1]
    assert listed == [f"u{n}" for n in range(9, -1, -1)]


async def test_a_repeated_import_changes_nothing(node: AdminNode) -> None:
    likes = [(f"u{n}", POST, LONG_AGO + n) for n in range(50)]
    await imported(node, likes)
    before = await likers(node), await node.post(POST)
    done = await imported(node, [(user, post, time + 7) for user, post, time in likes])
    assert done.existing == list(range(50))
    assert (await likers(node), await node.post(POST)) == before


async def test_of_a_doubled_like_the_first_one_counts(node: AdminNode) -> None:
    done = await imported(node, [("u1", POST, 10), ("u2", POST, 20), ("u1", POST, 30)])
    assert done.existing == [2]
    assert await likers(node) == [("u2", 20), ("u1", 10)]
    assert (await node.post(POST))["count"] == 2


async def test_what_users_did_stands(node: AdminNode) -> None:
    """A like keeps its own time, and an unlike stays one."""
    await node.write((True, POST, "liked"), (True, POST, "unliked"))
    await node.write((False, POST, "unliked"))
    ((_, before),) = await likers(node)
    done = await imported(
        node, [("liked", POST, LONG_AGO), ("unliked", POST, LONG_AGO), ("new", POST, LONG_AGO)]
    )
    assert done.existing == [0, 1]
    assert await likers(node) == [("liked", before), ("new", LONG_AGO)]
    assert (await node.post(POST))["count"] == 2


async def test_a_like_after_an_unlike_has_its_own_time(node: AdminNode) -> None:
    """The time of the import is that like's only; a repetition of the like, however, leaves it."""
    await imported(node, [("u1", POST, LONG_AGO), ("u2", POST, LONG_AGO + 1)])
    await node.write((True, POST, "u1"))
    assert await likers(node) == [("u2", LONG_AGO + 1), ("u1", LONG_AGO)]
    await node.write((False, POST, "u1"))
    assert await likers(node) == [("u2", LONG_AGO + 1)]
    await node.write((True, POST, "u1"))
    (first, time), second = await likers(node)
    assert (first, second) == ("u1", ("u2", LONG_AGO + 1))
    assert time > LONG_AGO + 1
    assert (await node.post(POST))["version"] == 4


async def test_a_newer_intent_alone_leaves_the_time(node: AdminNode) -> None:
    await imported(node, [("u1", POST, LONG_AGO)])
    numbers = PostNumbers()
    reading = await edge_store.read_edges(node.connection, [POST], ["u1"], [SLOT], numbers)
    ((key, state),) = await edge_store.edges_read(reading, [(POST, "u1")], [SLOT])
    state.intent += 5
    await edge_store.write_edges(node.connection, {key: state}, {POST: PostChange(SLOT)}, numbers)
    assert await likers(node) == [("u1", LONG_AGO)]


async def test_likes_of_slots_that_are_elsewhere_are_refused_one_by_one(node: AdminNode) -> None:
    (other_slot,) = posts_in(SLOT + 1, 1)
    imports = Imports(node.ownership, node.writer)
    done = await imports.insert([POST, other_slot, OTHER], ["u1"] * 3, [EPOCH, EPOCH + 1, EPOCH], [])
    assert done.refused == {1: OP_CODE_NOT_OWNER}
    assert [user for user, _ in await likers(node)] == ["u1"]
    assert [user for user, _ in await likers(node, OTHER)] == ["u1"]
    assert await likers(node, other_slot) == []
    assert (await imported(node, [("u2", POST, 1)], epoch=7)).refused == {0: OP_CODE_NOT_OWNER}
    assert (await node.post(POST))["count"] == 1


async def test_a_post_that_is_being_purged_takes_none(node: AdminNode) -> None:
    node.writer.purge_marks.add(POST, PurgeMark(SLOT, 1))
    done = await imported(node, [("u1", POST, 1), ("u1", OTHER, 1)])
    assert done.refused == {0: OP_CODE_POST_BEING_PURGED}
    assert await likers(node) == []
    assert await likers(node, OTHER) == [("u1", 1)]


async def test_imports_and_callers_take_turns(node: AdminNode) -> None:
    """Whatever is queued at once, every edge is counted once."""

    async def some(offset: int) -> None:
        await imported(node, [(f"u{n}", POST, n + 1) for n in range(offset, offset + 200)])

    async def call(offset: int) -> None:
        await node.write(*((True, POST, f"u{n}") for n in range(offset, offset + 100)))

    await asyncio.gather(*(some(100 * n) for n in range(8)), *(call(130 * n) for n in range(8)))
    row = await node.post(POST)
    edges = {*range(900), *(130 * n + m for n in range(8) for m in range(100))}
    assert row["count"] == row["version"] == row["likes"] == len(edges)


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_an_export_has_each_like_once_and_no_unlike(node: AdminNode, limit: int) -> None:
    """In the order of the lists, post by post, in pages of any size."""
    likes = [(f"u{n}", (POST, OTHER)[n % 2], 10 + n // 6) for n in range(40)]
    await imported(node, likes)
    await node.write((False, POST, "u0"), (True, OTHER, "here"))
    found = await exported(node, SLOT, limit)
    assert [like.post_id for like in found] == sorted(like.post_id for like in found)
    for post in (POST, OTHER):
        mine = [(like.user_id, like.like_time) for like in found if like.post_id == post]
        assert mine == (await likers(node, post))[::-1]
    assert len(found) == 40
