"""A post's likes are erased piece by piece, on a real Postgres; whatever interrupts it, repeating it ends it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest

from likering.shard.v1.shard_service_pb2 import OP_CODE_POST_BEING_PURGED
from shard_node.admin import purge as purging
from shard_node.admin import purge_pieces, steps
from shard_node.admin.purge import PurgeState
from shard_node.admin.purge_pieces import BeginPurge, EndLikes, EndPurge, EraseEdges
from shard_node.packed_ids import pack
from shard_node.store import PostCount
from tests.integration.admin_node import AdminNode, admin_node, posts_in
from tests.integration.node_database import EPOCH
from tests.parts.stored import EDGES

SLOT = 2
POST, OTHER = posts_in(SLOT, 2)
USERS = [f"u{number:03}" for number in range(50)]
STEPS = ("purge begun", "likes ended", "edges erased", "purge ended")


@pytest.fixture
async def node(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AdminNode]:
    """A post with 48 likes and two unlikes, beside another one; pieces are of ten rows."""
    monkeypatch.setattr(purge_pieces, "PIECE", 10)
    async with admin_node(database) as node:
        await node.write(*((True, post, user) for post in (POST, OTHER) for user in USERS))
        await node.write((False, POST, USERS[0]), (False, POST, USERS[1]))
        yield node


async def purged(node: AdminNode, post: str = POST) -> PurgeState:
    """Asks until it is done, as a router does."""
    began = 0
    while True:
        state = await node.purges.purge(post, EPOCH, began)
        began = state.began or began
        if state.done:
            return state


async def test_nothing_is_left_but_the_post_at_a_higher_version(node: AdminNode) -> None:
    assert await node.purges.estimate(POST, EPOCH) == (48, 50)
    state = await purged(node)
    post = await node.post(POST)
    assert post["version"] == 52 + 48 == state.version
    assert (post["count"], post["edges"], post["began"]) == (0, 0, None)
    assert state.edges_erased == 50
    assert state.ended_at == post["ended_at"] > 0
    assert node.published[POST] == PostCount(100, 0)
    assert (await node.post(OTHER))["likes"] == 50
    assert (await node.write((True, POST, "new"))).versions == [101]


async def test_each_version_has_its_count(node: AdminNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every end of a like is a change of its own: version + count stays what it was."""
    seen: list[PostCount] = []
    publish = node._publish

    async def note(batch: object) -> None:
        seen.extend(batch.posts.values())  # type: ignore[attr-defined]
        await publish(batch)  # type: ignore[arg-type]

    node.writer._publish = note
    await purged(node)
    assert len(seen) >= 5
    assert {post.version + post.like_count for post in seen} == {52 + 48}


async def test_likes_are_refused_meanwhile_and_unlikes_are_not(
    node: AdminNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "WORK_SECONDS", 0.0)
    state = await node.purges.purge(POST, EPOCH, 0)
    assert not state.done
    written = await node.write((True, POST, "late"), (True, OTHER, "late"), (False, POST, USERS[-1]))
    assert written.codes == [OP_CODE_POST_BEING_PURGED, 0, 0]
    assert written.counts[2] == state.likes - 1
    assert (await purged(node)).edges_erased == 50


async def test_every_like_is_ended_before_any_row_goes(
    node: AdminNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads changes by revision sees the end of each like, and holds up the deletion until then."""
    before = node.writer._last_rev
    consumed = before
    node.consumed = lambda slot: consumed
    state = await node.purges.purge(POST, EPOCH, 0)
    assert not state.done
    assert str(before) in state.waits_for
    cursor = await node.connection.execute(
        f"SELECT count(*), count(DISTINCT rev), bool_or(liked) FROM {EDGES} WHERE post_id = %s AND rev > %s",
        [POST, before],
    )
    assert await cursor.fetchone() == (48, 48, False)
    consumed = node.writer._last_rev
    assert (await purged(node)).done
    assert (await node.post(POST))["edges"] == 0


class Died(Exception):
    """Stands for the end of the process."""


async def test_another_process_goes_on(node: AdminNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart at any step likes stay refused, and a repeated call brings it to the same end."""
    for post, (step, times) in zip(posts_in(SLOT, 10)[2:], itertools.product(STEPS, (1, 3)), strict=False):
        await node.write(*((True, post, user) for user in USERS))
        left = times

        def die(reached: str, slot: int, step: str = step) -> None:
            nonlocal left
            left -= reached == step
            if reached == step and left <= 0:
                raise Died

        monkeypatch.setattr(steps, "reached", die)
        once = step in ("purge begun", "purge ended")
        with pytest.raises(Died) if times == 1 or not once else nullcontext():
            await purged(node, post)
        monkeypatch.setattr(steps, "reached", steps.logged)
        await node.stop()
        await node.start()
        row = await node.post(post)
        ended = row["began"] is None
        assert ended is (step == "purge ended" or (once and times > 1)), step
        refused = (await node.write((True, post, "late"))).codes == [OP_CODE_POST_BEING_PURGED]
        assert refused is not ended, step
        if refused:
            assert (await purged(node, post)).edges_erased == 50, step
            row = await node.post(post)
            assert (row["version"], row["count"], row["edges"], row["began"]) == (100, 0, 0, None), step


async def test_a_purge_that_has_ended_is_not_begun_again(node: AdminNode) -> None:
    """A repeated call gives the receipt again; whoever goes on with it leaves likes alone that have come since."""
    first = await purged(node)
    assert await purged(node) == first
    assert (await node.write((True, POST, "new"))).codes == []
    state = await node.purges.purge(POST, EPOCH, began=12345)
    assert state.done
    assert state.ended_at == first.ended_at
    assert (await node.post(POST))["likes"] == 1


async def test_a_piece_of_a_purge_that_is_over_does_nothing(node: AdminNode) -> None:
    """It was read before the end: what has come since must not go."""
    marks = node.writer.purge_marks
    await purged(node)
    await node.write((True, POST, "new"), (False, POST, "gone"))
    before = await node.post(POST)
    over = (SLOT, EPOCH, POST, 12345, marks)
    for under_way in (False, True):
        if under_way:
            await node.writer.maintain(BeginPurge(SLOT, EPOCH, POST, marks))
            before = await node.post(POST)
        for piece in (
            EndLikes(*over, ["new"]),
            EraseEdges(*over, ["gone"], purging.NEWEST),
            EndPurge(*over),
        ):
            await node.writer.maintain(piece)
            assert await node.post(POST) == before


async def test_two_calls_at_once_erase_once(node: AdminNode) -> None:
    one, two = await asyncio.gather(purged(node), purged(node))
    assert one.version == two.version == 100
    assert (await node.post(POST))["erased"] == 50


async def test_a_wrong_count_ends_at_zero_at_a_version_of_its_own(node: AdminNode) -> None:
    """And of a post that nobody knows no row is made."""
    await node.connection.execute(
        "UPDATE posts SET like_count = like_count + 7 WHERE post_id = %s", [pack(POST)]
    )
    state = await purged(node)
    assert state.version == 101
    assert (await node.post(POST))["count"] == 0
    (unknown,) = {*posts_in(SLOT, 3)} - {POST, OTHER}
    state = await node.purges.purge(unknown, EPOCH, 0)
    assert (state.done, state.ended_at, state.edges_erased) == (True, 0, 0)
    cursor = await node.connection.execute("SELECT FROM posts WHERE post_id = %s", [pack(unknown)])
    assert cursor.rowcount == 0
