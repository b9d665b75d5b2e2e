"""A user is erased from a slot piece by piece, on a real Postgres; whatever interrupts it, repeating it ends it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from likering.errors import MessageMalformed
from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import OP_CODE_USER_BEING_PURGED
from shard_node import user_likes
from shard_node.admin import purge_pieces, steps
from shard_node.admin.imports import InsertLikes
from shard_node.admin.user_purge import Done, Place
from shard_node.admin.user_purge_pieces import EndUserLikes, EraseUserEdges, EraseUserList, ReleaseUser
from shard_node.packed_ids import pack
from shard_node.store import PostCount
from shard_node.user_chunks import Entry
from shard_node.user_store import UserLike
from tests.integration.admin_node import AdminNode, admin_node, posts_in
from tests.integration.node_database import EPOCH, SLOTS
from tests.parts.stored import EDGES
from tests.parts.user_side import CHUNKS, told

SLOT = 2
NEVER_LIKED, *POSTS = posts_in(SLOT, 31)
USER = next(user for user in map("u{}".format, range(100)) if slot_of(user, SLOTS) == SLOT)
"""Of the same slot, so that all steps are about it."""
OTHER = "other"
STEPS = ("user marked", "user's likes ended", "user's edges erased", "user's list erased", "user released")


@pytest.fixture
async def node(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AdminNode]:
    """Two users like thirty posts, one has unliked two of them; pieces are of seven rows."""
    monkeypatch.setattr(purge_pieces, "PIECE", 7)
    async with admin_node(database) as node:
        await like(node)
        yield node


async def like(node: AdminNode) -> None:
    await node.write(*((True, post, user) for post in POSTS for user in (USER, OTHER)))
    await node.write((False, POSTS[0], USER), (False, POSTS[1], USER))
    likes = [UserLike(USER, SLOT, Entry(post, 1, True, 1), first=True) for post in POSTS]
    likes.append(UserLike(OTHER, SLOT, Entry(POSTS[0], 1, True, 1), first=True))
    await node.writer.write(lambda connection, fence: user_likes.apply(connection, fence, likes))


async def over_posts(node: AdminNode, step: str, purge: int = 0, limit: int = 4) -> list[Done]:
    """As a router does."""
    answers: list[Done] = []
    after: int | None = 0
    while after is not None:
        done = await getattr(node.user_purges, step)(Place(SLOT, EPOCH, USER, purge, after, limit))
        answers.append(done)
        assert not done.waits_for
        after = done.looked.last
    return answers


async def purged(node: AdminNode) -> Done:
    """All steps."""
    purge = (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge
    await over_posts(node, "end_likes", purge)
    await over_posts(node, "erase_edges", purge)
    while (await node.user_purges.erase_list(Place(SLOT, EPOCH, USER, purge))).list_rows:
        pass
    return await node.user_purges.release(Place(SLOT, EPOCH, USER, purge))


async def left(node: AdminNode) -> tuple[int, int, int, int]:
    """Edges of the user and what was told of them, and of others."""
    cursor = await node.connection.execute(
        f"SELECT (SELECT count(*) FROM {EDGES} WHERE user_id = %(user)s),"
        f" (SELECT count(*) FROM {EDGES} WHERE user_id <> %(user)s AND liked)",
        {"user": USER},
    )
    row = await cursor.fetchone()
    assert row is not None
    listed = [like.user_id for like in told(await (await node.connection.execute(CHUNKS)).fetchall())]
    return row[0], listed.count(USER), row[1], len(listed) - listed.count(USER)


async def is_refused(node: AdminNode) -> bool:
    written = await node.write((True, POSTS[5], USER), (False, NEVER_LIKED, USER))
    assert len(set(written.codes)) < 2
    return written.codes[:1] == [OP_CODE_USER_BEING_PURGED]


async def test_nothing_is_left_of_the_user_and_nobody_else_is_touched(node: AdminNode) -> None:
    counted = await over_posts(node, "count")
    assert [sum(one.looked.posts for one in counted), sum(one.looked.likes for one in counted)] == [30, 28]
    assert sum(len(one.looked.edges) for one in counted) == 30
    assert counted[0].list_rows == 30
    assert {one.purge for one in counted} == {0}
    done = await purged(node)
    assert await left(node) == (0, 0, 30, 1)
    assert done.purge == 0
    assert done.purge_time > 0
    for post in POSTS:
        row = await node.post(post)
        assert (row["version"], row["count"], row["likes"]) == (3, 1, 1)
        assert node.published[post] == PostCount(3, 1)
    assert (await node.write((True, POSTS[5], USER))).versions == [4]


async def test_each_end_is_a_change_of_its_own_that_readers_of_changes_see(node: AdminNode) -> None:
    """Before any row goes; who has not read them holds the deletion up."""
    before = node.writer._last_rev
    purge = (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge
    await over_posts(node, "end_likes", purge)
    cursor = await node.connection.execute(
        f"SELECT count(DISTINCT rev), bool_or(liked) FROM {EDGES} WHERE user_id = %s AND rev > %s",
        [USER, before],
    )
    assert await cursor.fetchone() == (28, False)
    node.consumed = lambda slot: before
    place = Place(SLOT, EPOCH, USER, purge)
    done = await node.user_purges.erase_edges(place)
    assert str(before) in done.waits_for
    assert done.edges_erased == 2  # unlikes of long ago
    node.consumed = lambda slot: node.writer._last_rev
    done = await node.user_purges.erase_edges(place)
    assert (done.waits_for, done.edges_erased, done.looked.last) == ("", 30, None)


async def test_likes_and_unlikes_of_the_user_are_refused_meanwhile_imports_too(node: AdminNode) -> None:
    """An unlike of what was never liked would leave a row behind the look."""
    purge = (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge
    assert await is_refused(node)
    assert (await node.write((False, POSTS[4], OTHER))).codes == []
    insert = InsertLikes(
        [POSTS[0], POSTS[0]],
        [USER, "new"],
        [SLOT, SLOT],
        [EPOCH, EPOCH],
        [],
        node.writer.purge_marks,
        node.writer.user_purge_marks,
        node.writer.post_numbers,
    )
    await node.writer.maintain(insert)
    assert insert.refused == {0: OP_CODE_USER_BEING_PURGED}
    assert (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge == purge
    await purged(node)
    assert not await is_refused(node)


class Died(Exception):
    """Stands for the end of the process."""


async def test_another_process_goes_on(node: AdminNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart at any step the user stays refused, and repeating all steps brings it to the same end."""
    for step, times in itertools.product(STEPS, (1, 2)):
        reached_times = times

        def die(reached: str, slot: int, step: str = step) -> None:
            nonlocal reached_times
            reached_times -= reached == step
            if reached == step and reached_times <= 0:
                raise Died

        if times == 2 and step in ("user marked", "user released"):
            continue
        await like(node)
        monkeypatch.setattr(steps, "reached", die)
        with pytest.raises(Died):
            await purged(node)
        monkeypatch.setattr(steps, "reached", steps.logged)
        await node.stop()
        await node.start()
        assert await is_refused(node) is (step != "user released"), step
        await purged(node)
        assert await left(node) == (0, 0, 30, 1), step
        assert not await is_refused(node)
        cursor = await node.connection.execute(
            "SELECT count(*) FROM posts WHERE like_count <>"
            " (SELECT count(*) FROM edges WHERE (edges.slot, edges.post_no) = (posts.slot, posts.post_no) AND liked)"
        )
        assert await cursor.fetchone() == (0,), step


async def test_a_piece_of_a_purge_that_is_over_does_nothing(node: AdminNode) -> None:
    """Neither when there is none, nor when a later one is under way: what has come since must not go."""
    first = (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge
    await purged(node)
    await like(node)
    before = await left(node)
    marks = node.writer.user_purge_marks
    for later in (False, True):
        if later:
            assert (await node.user_purges.mark(Place(SLOT, EPOCH, USER))).purge > first
        for purge in (0, first):
            over = (SLOT, EPOCH, USER, purge, marks)
            for piece in (
                EndUserLikes(*over, POSTS),
                EraseUserEdges(*over, POSTS, 2**62),
                EraseUserList(*over),
                ReleaseUser(*over, own=True),
            ):
                await node.writer.maintain(piece)
                assert await left(node) == before
        assert (marks.purge(USER, SLOT) > 0) is later


async def test_another_slot_is_marked_for_the_latest_purge_it_has_heard_of(node: AdminNode) -> None:
    """And keeps no trace of a user who had nothing there; the user's own slot keeps receipt and place."""
    slot = SLOT + 1

    def place(purge: int) -> Place:
        return Place(slot, EPOCH, USER, purge)

    async def rows() -> Sequence[tuple[int]]:
        cursor = await node.connection.execute(
            "SELECT slot FROM posts WHERE position(%s IN post_id) > 1 ORDER BY slot", [pack(USER)]
        )
        return await cursor.fetchall()

    with pytest.raises(MessageMalformed):
        await node.user_purges.mark(place(0))
    assert [(await node.user_purges.mark(place(purge))).purge for purge in (7, 9, 8)] == [7, 9, 9]
    await node.stop()
    await node.start()
    assert node.writer.user_purge_marks.purge(USER, slot) == 9
    assert (await node.user_purges.release(place(7))).purge == 9
    assert (await node.user_purges.release(place(9))).purge == 0
    assert await rows() == []
    await purged(node)
    assert await rows() == [(SLOT,), (SLOT,)]
    await node.stop()
    await node.start()
    assert not node.writer.user_purge_marks
