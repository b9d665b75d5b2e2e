"""Purges in the change feed of a node: told to those who did not read meanwhile, and in their place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing

import pytest

from likering.ring.hashing import slot_of
from likering.v1.like_service_pb2 import LikeEvent
from shard_node import feed as feed_module
from shard_node.admin.purge import Purges
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.user_purge import Place, UserPurges
from shard_node.store import Connection, execute
from tests.integration.feed_node import POST, Node, Reading, feed_node
from tests.integration.node_database import EPOCH, SLOTS

SLOT = slot_of(POST, SLOTS)
SAME_SLOT = [post for n in range(1000) if slot_of(post := f"q{n}", SLOTS) == SLOT][:3]
OTHER_SLOT = next(post for n in range(1000) if slot_of(post := f"q{n}", SLOTS) == SLOT + 1)
USER = next(user for n in range(1000) if slot_of(user := f"u{n}", SLOTS) == SLOT + 2)
"""Whose own slot has none of the posts."""


class PurgedNode(Node):
    """That can purge, too."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        reads = SlotReads(self.pool, self.ownership, self.leadership)
        self.purges = Purges(reads, self.ownership, self.writer)
        self.user_purges = UserPurges(reads, self.ownership, self.writer)

    async def purge_post(self, post_id: str) -> None:
        assert (await self.purges.purge(post_id, EPOCH, 0)).done

    async def take(self, slot: int) -> None:
        """As a node to which the slot has moved: it has the rows and the seal, and knows nothing else."""

        async def take(connection: Connection) -> None:
            of_seal = {"slot": slot, "move": 1, "attempt": 1}
            await execute(connection, "seal_slot", of_seal)
            await connection.execute("DELETE FROM slots WHERE slot = %s", [slot])
            await execute(connection, "take_slot", {**of_seal, "epoch": EPOCH + 1})

        await self.writer.change_slots(take)

    async def purge_user(self, user_id: str) -> None:
        """As a router does."""
        (own,) = self.ownership.slots_of([user_id])
        purge = (await self.user_purges.mark(Place(own, EPOCH, user_id))).purge
        slots = [own, *(slot for slot in range(SLOTS) if slot != own)]
        for slot in slots[1:]:
            await self.user_purges.mark(Place(slot, EPOCH, user_id, purge))
        for step in (self.user_purges.end_likes, self.user_purges.erase_edges, self.user_purges.release):
            for slot in slots:
                await step(Place(slot, EPOCH, user_id, purge))


@pytest.fixture
async def node(database: str) -> AsyncIterator[PurgedNode]:
    async with feed_node(database, PurgedNode) as node:
        yield node


class Known:
    """Edges as a consumer knows them by the events, and what came."""

    def __init__(self) -> None:
        self.liked: dict[tuple[str, str], int] = {}
        """Post and user → slot."""
        self.firsts: list[tuple[str, str]] = []
        self.purges: list[tuple[str, str, int]] = []
        self.positions: Mapping[int, int] = dict.fromkeys(range(SLOTS), 0)

    def take(self, event: LikeEvent) -> None:
        edge = event.post_id, event.user_id
        match event.kind:
            case LikeEvent.KIND_EDGE:
                assert event.slot == slot_of(event.post_id, SLOTS)
                self.liked.pop(edge, None)
                if event.liked:
                    self.liked[edge] = event.slot
                if event.first_like:
                    self.firsts.append(edge)
            case LikeEvent.KIND_POST_PURGED | LikeEvent.KIND_USER_PURGED:
                assert not event.liked
                assert not event.first_like
                self.purges.append((event.post_id, event.user_id, event.slot))
                self.liked = {
                    (post, user): slot
                    for (post, user), slot in self.liked.items()
                    if post != event.post_id and (user, slot) != (event.user_id, event.slot)
                }
            case _:
                raise AssertionError(event)

    async def read(self, node: Node, limit: int, until: Collection[tuple[str, str]], purges: int = 0) -> None:
        """Goes on from where it stands until it knows these likes and no others, and has come by so many purges."""
        async with aclosing(node.stream(self.positions, limit)) as changes:
            reading = Reading(changes)
            while self.liked.keys() != set(until) or len(self.purges) < purges:
                for event in (await reading.response()).events:
                    self.take(event)
        self.positions = {**self.positions, **reading.positions}


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_who_did_not_read_meanwhile_is_told_that_a_post_was_purged(
    node: PurgedNode, limit: int
) -> None:
    known = Known()
    for user in ("a", "b", "c"):
        await node.act((True, POST, user), (True, SAME_SLOT[0], user))
    await known.read(node, limit, {(post, user) for post in (POST, SAME_SLOT[0]) for user in "abc"})
    await node.act((True, POST, "d"))  # of this one it will never hear
    await node.purge_post(POST)
    await node.act((True, POST, "b"), (False, SAME_SLOT[0], "a"))
    await known.read(node, limit, {(POST, "b"), (SAME_SLOT[0], "b"), (SAME_SLOT[0], "c")})
    assert known.purges == [(POST, "", SLOT)]
    assert known.firsts.count((POST, "b")) == 2
    assert (POST, "d") not in known.firsts
    await node.purge_post(POST)
    await known.read(node, limit, {(SAME_SLOT[0], "b"), (SAME_SLOT[0], "c")})
    assert known.purges == [(POST, "", SLOT)] * 2


async def test_a_purge_of_a_post_tells_the_count_of_now(node: PurgedNode) -> None:
    await node.act((True, POST, "a"), (True, POST, "b"))
    await node.purge_post(POST)
    await node.act((True, POST, "c"))
    async with aclosing(node.stream()) as changes:
        purge, like = await Reading(changes).events(2)
    assert (purge.kind, purge.like_count.count, purge.like_count.version) == (
        LikeEvent.KIND_POST_PURGED,
        1,
        5,
    )
    assert purge.like_time.ToMicroseconds() < like.like_time.ToMicroseconds()
    assert purge.like_count.post_id == POST


@pytest.mark.parametrize("limit", [1, 1000])
async def test_who_did_not_read_meanwhile_is_told_by_each_slot_that_a_user_was_purged(
    node: PurgedNode, limit: int
) -> None:
    """By the slots where the user had edges, and by no other."""
    known = Known()
    posts = [POST, *SAME_SLOT, OTHER_SLOT]
    for user in (USER, "other"):
        await node.act(*((True, post, user) for post in posts))
    await known.read(node, limit, {(post, user) for post in posts for user in (USER, "other")})
    await node.purge_user(USER)
    await node.act((True, POST, USER), (False, OTHER_SLOT, "other"))
    left = {(post, "other") for post in posts[:-1]}
    await known.read(node, limit, {*left, (POST, USER)}, purges=2)
    assert sorted(known.purges) == [("", USER, SLOT), ("", USER, SLOT + 1)]
    assert known.firsts.count((POST, USER)) == 2
    # Who had nothing there is no event: the next thing told is the next like.
    await node.purge_user("nobody")
    await node.act((True, OTHER_SLOT, "last"))
    await known.read(node, limit, {*left, (POST, USER), (OTHER_SLOT, "last")})
    assert len(known.purges) == 2


async def test_who_waits_is_told_of_a_purge_at_once(
    node: PurgedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when all slots are looked at for other reasons."""
    monkeypatch.setattr(feed_module, "PROGRESS_INTERVAL", 60.0)
    await node.act((True, POST, USER))
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        await reading.events(1)
        await node.purge_user(USER)
        told: list[LikeEvent] = []
        while not told or told[-1].kind != LikeEvent.KIND_USER_PURGED:
            told += (await reading.response()).events
        await node.act((True, POST, "a"))
        await reading.events(1)
        await node.purge_post(POST)
        while told[-1].kind != LikeEvent.KIND_POST_PURGED:
            told += (await reading.response()).events
    assert all(not event.liked for event in told)


async def test_a_slot_that_has_moved_tells_of_its_purges(node: PurgedNode) -> None:
    """Of those before, in a database in which nothing has been purged since."""
    await node.act((True, POST, USER), (True, SAME_SLOT[0], USER))
    await node.purge_post(POST)
    await node.take(SLOT)
    async with aclosing(node.feed.changes({SLOT: EPOCH + 1}, {SLOT: 0}, 1000)) as changes:
        like, purge = await Reading(changes).events(2)
    assert (like.post_id, like.liked) == (SAME_SLOT[0], True)
    assert (purge.kind, purge.post_id) == (LikeEvent.KIND_POST_PURGED, POST)


async def test_pages_are_full_of_purges(node: PurgedNode) -> None:
    """More than one page of them, with an edge in between."""
    for number in range(3):
        await node.act((True, POST, "a"))
        await node.purge_post(POST)
        if not number:
            await node.act((True, SAME_SLOT[0], "b"))
    async with aclosing(node.stream(limit=2)) as changes:
        events = await Reading(changes).events(4)
    assert [event.user_id for event in events] == ["", "b", "", ""]
