"""Sweeping tombstones on a real Postgres: what goes and what stays, who is told that, which likes are too old then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from time import time_ns
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from likering.cursors import FROM_NOW
from likering.errors import CursorExpired, NoSynchronousStandby, NotPossible
from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import OP_CODE_INTENT_TOO_OLD, OP_OUTCOME_CHANGED
from shard_node.admin import sweeper as sweeper_module
from shard_node.admin.purge_pieces import BeginPurge, EndPurge
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.sweeper import PAGE, Page, Sweep, Sweeper
from shard_node.arrays import int_array
from shard_node.maintenance import SlotRefused, Transaction
from shard_node.purge_marks import NO_PURGES
from shard_node.queries import QUERIES
from shard_node.store import Connection, execute
from tests.integration.feed_node import POST, Node, Reading, feed_node, told
from tests.integration.node_database import EPOCH, SLOTS, unit
from tests.parts.until import until

SLOT = 3
"""That of POST."""
DAY = 86_400_000_000
RETENTION = 7 * DAY


def now() -> int:
    return time_ns() // 1000


class SweptNode(Node):
    """A node whose sweeper thinks that it is later than it is."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.dsn = dsn
        self.later = 0
        """By so many µs."""
        self.told_to: dict[int, int] = {}
        """Slot → up to where the users' side has been told; all of it where nothing is said."""
        self.registry = CollectorRegistry()
        self.sweeper = self.another_sweeper()

    def another_sweeper(self) -> Sweeper:
        """As a process has that was just started."""
        self.registry = CollectorRegistry()
        return Sweeper(
            self.pool,
            SlotReads(self.pool, self.ownership, self.leadership),
            self.writer,
            lambda slot: self.told_to.get(slot, 2**63 - 1),
            RETENTION / 1e6,
            registry=self.registry,
            clock_us=lambda: now() + self.later,
        )

    async def toggle(self, *users: str, intent: int = 0) -> None:
        """Likes of POST that are taken back."""
        for like in (True, False):
            await self.writer.submit(unit([(like, POST, user, intent) for user in users]))

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(query.encode())).fetchall()

    async def edges(self) -> Sequence[tuple[bool, int]]:
        """Whether each is liked, and its revision."""
        found = await self.rows("SELECT liked, rev FROM edges ORDER BY rev")
        return [(bool(liked), int(str(rev))) for liked, rev in found]

    async def slot(self) -> tuple[object, ...]:
        """What SLOT's row says of sweeps: revision, intent, how far it came."""
        (row,) = await self.rows(f"SELECT swept_rev, swept_intent, swept_to FROM slots WHERE slot = {SLOT}")
        return row


@pytest.fixture
async def node(database: str) -> AsyncIterator[SweptNode]:
    async with feed_node(database, SweptNode) as node:
        yield node


async def test_what_has_ended_goes_after_the_retention_and_counts_stay(node: SweptNode) -> None:
    await node.act((True, POST, "stays"))
    await node.toggle("u1", "u2")
    assert await node.sweeper.round() == 0
    before = await node.edges()
    node.later = RETENTION - DAY
    assert await node.sweeper.round() == 0
    assert await node.edges() == before
    node.later = RETENTION
    assert await node.sweeper.round() == 2
    assert await node.edges() == [(True, before[0][1])]
    ends = max(rev for liked, rev in before if not liked)
    assert (await node.slot())[:2] == (ends, ends)
    assert await node.rows(f"SELECT version, like_count FROM posts WHERE slot = {SLOT}") == [(5, 1)]
    assert node.registry.get_sample_value("likering_tombstones_swept_total") == 2
    assert await node.sweeper.round() == 0


async def test_what_the_users_side_has_not_been_told_stays(node: SweptNode) -> None:
    await node.toggle("u1")
    await node.toggle("u2")
    node.later = RETENTION
    (_, first), (_, second) = await node.edges()
    node.told_to[SLOT] = second - 1
    assert await node.sweeper.round() == 1
    assert await node.edges() == [(False, second)]
    node.told_to[SLOT] = 0
    await node.toggle("u3")
    assert await node.sweeper.round() == 0
    assert (await node.slot())[0] == first


async def test_likes_that_stay_are_looked_at_once(node: SweptNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and by whichever process."""
    monkeypatch.setattr(sweeper_module, "PIECE", 40)
    await node.act(*[(True, POST, f"u{n}") for n in range(PAGE + 100)])
    node.later = RETENTION
    looks: list[int] = []
    page = Sweeper._page

    async def counted(sweeper: Sweeper, *arguments: Any) -> Page:
        found = await page(sweeper, *arguments)
        if found.edges:
            looks.append(found.edges)
        return found

    monkeypatch.setattr(Sweeper, "_page", counted)
    assert await node.sweeper.round() == 0
    assert looks == [PAGE, 100]
    node.sweeper = node.another_sweeper()
    await node.toggle(*[f"t{n}" for n in range(100)])
    assert await node.sweeper.round() == 100
    assert looks[2:] == [200]
    await node.toggle("again")
    assert await node.sweeper.round() == 1
    assert await node.another_sweeper().round() == 0
    assert looks[3:] == [1]


async def test_a_tombstone_whose_unlike_was_repeated_stays_for_its_intent(node: SweptNode) -> None:
    await node.toggle("u1")
    later = now() + 3 * DAY
    node.writer._clock_us = lambda: later
    await node.writer.submit(unit([(False, POST, "u1", later)]))
    node.later = RETENTION
    assert await node.sweeper.round() == 0
    node.later = 2 * RETENTION + DAY
    assert await node.sweeper.round() == 1
    assert (await node.slot())[1] == later


async def test_what_was_liked_again_since_the_look_stays(node: SweptNode) -> None:
    await node.toggle("u1", "u2")
    revs = [rev for _, rev in await node.edges()]
    await node.act((True, POST, "u2"))
    sweep = Sweep(SLOT, EPOCH, node.writer, revs, revs[-1], now() + DAY)
    await node.writer.maintain(sweep)
    assert sweep.swept == 1
    assert [liked for liked, _ in await node.edges()] == [True]


async def test_nothing_is_swept_while_a_post_or_a_user_is_erased(node: SweptNode) -> None:
    await node.toggle("u1")
    node.later = RETENTION
    purge = BeginPurge(SLOT, EPOCH, POST, node.writer.purge_marks)
    await node.writer.maintain(purge)
    assert await node.sweeper.round() == 0
    await node.writer.maintain(EndPurge(SLOT, EPOCH, POST, purge.began, node.writer.purge_marks))
    assert await node.sweeper.round() == 1


@pytest.mark.parametrize("seal", [0, 7])
async def test_nothing_is_swept_until_a_move_has_ended(node: SweptNode, seal: int) -> None:
    """Its seal, or a probe, says that the copies are still to be compared; or that one is being made."""
    await node.toggle("u1")
    node.later = RETENTION
    async with node.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO seals (slot, move, attempt, probe, last_rev) VALUES (%s, 1, 1, %s, 0)", [SLOT, seal]
        )
        assert await node.sweeper.round() == 0
        await connection.execute("DELETE FROM seals")
    assert await node.sweeper.round() == 1


async def test_what_could_not_be_swept_is_swept_later(
    node: SweptNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that takes no writes for a while, and a database that is away, end no process."""
    await node.toggle("u1")
    node.later = RETENTION
    refusals = [NoSynchronousStandby(), ConnectionError("away"), TimeoutError()]
    maintain = node.writer.maintain

    async def refusing(work: Transaction) -> None:
        if refusals:
            raise refusals.pop()
        await maintain(work)

    monkeypatch.setattr(node.writer, "maintain", refusing)
    node.sweeper._interval = 0.0
    running = asyncio.create_task(node.sweeper.run())
    await until(lambda: node.registry.get_sample_value("likering_tombstones_swept_total") == 1)
    running.cancel()
    await asyncio.wait((running,))


async def test_a_frozen_slot_is_not_swept(node: SweptNode) -> None:
    await node.toggle("u1")
    node.later = RETENTION
    await node.state(SLOT, "frozen")
    assert await node.sweeper.round() == 0
    with pytest.raises(SlotRefused):
        await node.writer.maintain(Sweep(SLOT, EPOCH, node.writer, [], 0, 0))


async def test_a_like_that_comes_later_than_its_unlike_is_kept_is_refused(node: SweptNode) -> None:
    meant = now()
    await node.toggle("u1", intent=meant + 10)
    node.later = RETENTION
    await node.sweeper.round()

    async def outcomes() -> None:
        late = unit([(True, POST, "u1", meant), (False, POST, "u1", meant), (True, POST, "u2", meant + 10)])
        await node.writer.submit(late)
        assert late.codes == [OP_CODE_INTENT_TOO_OLD, 0, 0]

    await outcomes()
    assert sorted(liked for liked, _ in await node.edges()) == [False, True]
    # Another slot has forgotten nothing.
    elsewhere = next(f"p{n}" for n in range(99) if slot_of(f"p{n}", SLOTS) != SLOT)
    other = unit([(True, elsewhere, "u1", meant)])
    await node.writer.submit(other)
    assert (other.codes, other.outcomes) == ([], [OP_OUTCOME_CHANGED])
    # A process that comes after this one knows it from the slot's row.
    await node.writer._reload_fence()
    await outcomes()


async def test_a_consumer_that_may_have_missed_an_end_has_expired(node: SweptNode) -> None:
    await node.act((True, POST, "u1"), (True, POST, "u2"))
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        assert told(await reading.events(2)) == [("u1", True, True), ("u2", True, True)]
        behind = dict(reading.positions)
        await node.act((False, POST, "u1"))
        await reading.events(1)
        told_of = dict(reading.positions)
    node.later = RETENTION
    began = now()
    await node.sweeper.round()
    async with aclosing(node.stream(behind)) as changes:
        with pytest.raises(CursorExpired) as caught:
            await Reading(changes).response()
    ended = str((await node.slot())[0])
    assert caught.value.metadata == {"slot": "3", "position": str(behind[SLOT]), "swept_until": ended}
    # Who was told of the end goes on, and who begins now has missed nothing. Liked again, it is a new like.
    async with aclosing(node.stream(told_of)) as changes:
        await node.act((True, POST, "u1"))
        assert told(await Reading(changes).events(1)) == [("u1", True, True)]
    async with aclosing(node.stream(began=began)) as changes:
        assert told(await Reading(changes).events(2)) == [("u2", True, True), ("u1", True, True)]
    async with aclosing(node.stream({SLOT: FROM_NOW})) as changes:
        assert not (await Reading(changes).response()).events
    # Of one who began before versions that swept it is not known what it was told of.
    async with aclosing(node.stream()) as changes:
        with pytest.raises(CursorExpired):
            await Reading(changes).response()


async def test_a_stream_expires_on_the_way(node: SweptNode) -> None:
    """It is told of a like, reads so slowly that the end is swept meanwhile, and is not left in the dark."""
    await node.act(*[(True, POST, f"u{n}") for n in range(4)])
    async with aclosing(node.stream({SLOT: 0}, limit=2, began=now())) as changes:
        reading = Reading(changes)
        await reading.events(2)
        await node.act((False, POST, "u0"))
        node.later = RETENTION
        assert await node.sweeper.round() == 1
        with pytest.raises(CursorExpired):
            await reading.events(99)


async def test_whatever_is_committed_after_a_consumer_began_is_above_that(node: SweptNode) -> None:
    """Be its clock ahead of this node's: else an end could be taken for one of before."""
    clock = now()
    node.writer._clock_us = lambda: clock
    began = clock + 30_000_000
    await node.act((True, POST, "u1"))
    async with aclosing(node.stream(began=began)) as changes:
        assert told(await Reading(changes).events(1)) == [("u1", True, True)]
    assert await node.rows(f"SELECT last_rev >= {began} FROM writer") == [(True,)]
    await node.act((False, POST, "u1"))
    assert min(rev for _, rev in await node.edges()) > began
    with pytest.raises(NotPossible):
        async with aclosing(node.stream(began=clock + 90_000_000)) as changes:
            await Reading(changes).response()


async def test_what_was_swept_goes_with_the_slot(node: SweptNode) -> None:
    meant = now()
    await node.toggle("u1", intent=meant)
    node.later = RETENTION
    await node.sweeper.round()
    (swept_rev, swept_intent, _) = await node.slot()
    names = {"slot": SLOT, "move": 5, "attempt": 2}

    async def freeze(connection: Connection) -> None:
        await execute(connection, "freeze_slot", {**names, "epoch": EPOCH})
        await execute(connection, "seal_slot", names)

    async def come_back(connection: Connection) -> None:
        await execute(connection, "slot_moved", {"slot": SLOT, "move": 5})
        await connection.execute("UPDATE slots SET swept_rev = 1, swept_intent = 1 WHERE slot = %s", [SLOT])
        await execute(connection, "take_slot", {**names, "epoch": EPOCH + 1})

    await node.writer.change_slots(freeze)
    assert (swept_rev, swept_intent) == (await node.rows("SELECT swept_rev, swept_intent FROM seals"))[0]
    await node.writer.change_slots(come_back, purges=NO_PURGES)
    assert await node.slot() == (swept_rev, swept_intent, 0)
    late = unit([(True, POST, "u2", meant - 1)])
    late.epochs = [EPOCH + 1]
    await node.writer.submit(late)
    assert late.codes == [OP_CODE_INTENT_TOO_OLD]


async def test_tombstones_are_found_and_deleted_by_the_index(node: SweptNode) -> None:
    """Of a slot with many edges, whatever the plan is made for."""
    await node.act(*[(True, POST, f"u{n}") for n in range(20_000)])
    await node.act(*[(False, POST, f"u{n}") for n in range(0, 20_000, 10)])
    ends = [rev for liked, rev in await node.edges() if not liked]
    async with node.pool.connection() as connection:
        await connection.execute("ANALYZE edges")
        cursor = psycopg.AsyncClientCursor(connection)
        plans: dict[str, dict[str, Any]] = {
            "tombstones": {"slot": SLOT, "after": 100, "until": ends[-1], "latest_intent": ends[-1]},
            "sweep": {"slot": SLOT, "revs": int_array(ends[:2]), "to": 0, "latest_intent": ends[-1]},
        }
        for name, values in plans.items():
            sql = QUERIES[name]
            await cursor.execute("EXPLAIN (ANALYZE, COSTS OFF) " + sql, values)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
            assert "edges_s3_rev_idx" in plan, plan
            assert "Seq Scan on edges" not in plan, plan
