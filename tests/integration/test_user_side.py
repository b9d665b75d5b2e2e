"""The users' side on real databases: what is told is kept once and in its newest form, to whom, and how far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from likering.dev.postgres import PostgresServer
from likering.errors import ShardUnavailable
from likering.postgres.migrations import migrate
from likering.ring.hashing import slot_of
from likering.ring.topology import Node as RingNode
from likering.ring.topology import NodeState, Topology
from likering.shard.v1.shard_service_pb2 import OP_CODE_MOVING, OP_CODE_NOT_OWNER, OP_CODE_UNAVAILABLE
from shard_node import user_feed as user_feed_module
from shard_node import user_store
from shard_node.commit import Batch
from shard_node.database import read_pool
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.purge_marks import PurgeMark
from shard_node.store import Connection
from shard_node.user_feed import Rows, UserFeed
from shard_node.user_likes import Codes, UserLikes
from shard_node.user_marks import digest
from shard_node.user_store import Marks, ToldEdge
from shard_node.writer import Writer
from tests.integration.node_database import EPOCH, MIGRATIONS, SLOTS, migrations_before, prepared, unit
from tests.parts.until import until
from tests.parts.user_side import CHUNKS, told

CLUSTER = "00000000-0000-0000-0000-000000000001"
UPPER = range(SLOTS // 2, SLOTS)


class Topologies:
    """A watch that a test tells what is so."""

    def __init__(self, owners: Sequence[str]) -> None:
        self._version = 0
        self._changed = asyncio.Event()
        self.become(owners)

    def become(self, owners: Sequence[str]) -> None:
        self._version += 1
        nodes = {name: RingNode(name, name, "127.0.0.1:1", 1, NodeState.ACTIVE, 1) for name in set(owners)}
        self.latest = Topology(CLUSTER, self._version, SLOTS, nodes, tuple(owners), (EPOCH,) * SLOTS)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def newer_than(self, version: int) -> Topology:
        while self.latest.version <= version:
            await self._changed.wait()
        return self.latest


class Node:
    """What a node has of the users' side, over one database."""

    def __init__(self, dsn: str, topologies: Topologies, deliver: Callable[..., Any]) -> None:
        self.generations: list[int] = []
        self.pool = read_pool(dsn, 2)
        self.leadership = Leadership(dsn, "a", self.generations.append)
        self.ownership = Ownership(SLOTS)
        self.writer = Writer(self.leadership, self.ownership, self._publish)
        self.likes = UserLikes(self.ownership, self.writer)
        self.feed = UserFeed(self.pool, self.ownership, self.leadership, self.writer, topologies, deliver)
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.pool.open()
        self.tasks = [asyncio.create_task(self.writer.run()), asyncio.create_task(self.feed.run())]
        await self.writer.led.wait()

    async def stop(self) -> None:
        for task in reversed(self.tasks):
            task.cancel()
            await asyncio.wait((task,))
        await self.pool.close()

    async def _publish(self, batch: Batch) -> None:
        self.feed.committed(batch.slots)

    async def act(self, *operations: tuple[bool, str, str]) -> None:
        """Likes (True) and unlikes of user and post, in one commit."""
        await self.writer.submit(unit([(like, post, user, 0) for like, user, post in operations]))

    async def noted(self) -> None:
        """Waits until the database has the marks that the feed has."""
        async with asyncio.timeout(20):
            while True:
                async with self.pool.connection() as connection:
                    found = await user_store.read_marks(connection, list(self.feed._marks))
                begun = {slot: marks for slot, marks in self.feed._marks.items() if any(marks.values())}
                if begun and {slot: marks.by_node for slot, marks in found.items()} == begun:
                    return
                await asyncio.sleep(0.02)

    async def tell(self, *rows: tuple[str, str, int, bool], epoch: int = EPOCH) -> Codes:
        edges = [ToldEdge(*row, like_time=row[2], first=False) for row in rows]
        return await self.likes.apply(edges, [epoch] * len(rows))

    async def rows(self) -> list[Any]:
        """User, post, revision and whether it is a like, of what this node has been told."""
        async with self.pool.connection() as connection:
            return [row[:4] for row in told(await (await connection.execute(CHUNKS)).fetchall())]


class Pair:
    """Node a owns all posts and the users of the lower slots, node b the users of the upper ones."""

    def __init__(self, dsn: str, other_dsn: str) -> None:
        self.topologies = Topologies(["b" if slot in UPPER else "a" for slot in range(SLOTS)])
        self.calls: list[tuple[str, int]] = []
        self.first: dict[tuple[str, str], bool] = {}
        """Whether an edge was told as a first like, the last time."""
        self.down: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.nodes = {
            "a": Node(dsn, self.topologies, self._deliver),
            "b": Node(other_dsn, self.topologies, self._deliver),
        }

    async def _deliver(self, name: str, rows: Rows, epochs: Sequence[int]) -> Codes:
        self.calls.append((name, len(rows)))
        self.first.update({(row.user_id, row.post_id): row.first for row in rows})
        if name in self.down:
            raise ShardUnavailable
        if name == "b":
            await self.gate.wait()
        return await self.nodes[name].likes.apply(rows, epochs)

    async def liked(self) -> set[tuple[str, str]]:
        """(user, post) of what both nodes tell that users like."""
        rows = [row for node in self.nodes.values() for row in await node.rows()]
        assert len(rows) == len({row[:2] for row in rows})
        return {(user, post) for user, post, _, liked in rows if liked}

    async def told(self, expected: set[tuple[str, str]]) -> None:
        """Waits until the users' side is as it should be."""
        async with asyncio.timeout(20):
            while await self.liked() != expected:  # noqa: ASYNC110 - no event tells what databases have
                await asyncio.sleep(0.02)


@pytest.fixture
async def pair(
    database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    monkeypatch.setattr(user_feed_module, "MARKS_INTERVAL", 0.05)
    # Whoever forgets something is not to be saved by a look at everything.
    monkeypatch.setattr(user_feed_module, "FULL_LOOK_INTERVAL", 3600.0)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE users_b")
    try:
        other = postgres_server.dsn_of("users_b")
        async with prepared(database), prepared(other, slots=UPPER):
            pair = Pair(database, other)
            await pair.nodes["b"].start()
            await pair.nodes["a"].start()
            try:
                yield pair
            finally:
                pair.gate.set()
                for node in pair.nodes.values():
                    await node.stop()
    finally:
        with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
            admin.execute("DROP DATABASE users_b WITH (FORCE)")


def users(slots: Sequence[int], count: int = 5) -> list[str]:
    """Users of these slots."""
    return [name for name in (f"u{n}" for n in range(500)) if slot_of(name, SLOTS) in slots][:count]


async def test_what_is_told_again_or_late_changes_nothing(pair: Pair) -> None:
    """The newest revision of an edge stands, within a call and between calls."""
    node, (user, *_) = pair.nodes["b"], users(UPPER)
    assert await node.tell((user, "p", 5, True), (user, "q", 6, True)) == []
    assert await node.tell((user, "p", 9, False), (user, "p", 7, True), (user, "q", 6, False)) == []
    assert await node.tell((user, "p", 8, True)) == []
    assert await node.rows() == [(user, "p", 9, False), (user, "q", 6, True)]


async def test_rows_of_slots_that_take_no_writes_are_refused_alone(pair: Pair) -> None:
    """Frozen, of another epoch, or not this node's; their neighbours are committed."""
    node = pair.nodes["b"]
    frozen_user, (free_user, *_) = users([UPPER[0]])[0], users(UPPER[1:])

    async def freeze(connection: Connection) -> None:
        await connection.execute(
            "UPDATE slots SET state = 'frozen', move = 1, attempt = 1 WHERE slot = %s", [UPPER[0]]
        )

    await node.writer.change_slots(freeze)
    codes = await node.tell(
        (frozen_user, "p", 5, True), (free_user, "p", 6, True), (users([0])[0], "p", 7, True)
    )
    assert list(codes) == [OP_CODE_MOVING, 0, OP_CODE_NOT_OWNER]
    assert list(await node.tell((free_user, "p", 8, True), epoch=2)) == [OP_CODE_NOT_OWNER]
    assert await node.rows() == [(free_user, "p", 6, True)]


async def test_a_slot_that_freezes_while_rows_wait_does_not_get_them(pair: Pair) -> None:
    """What is queued behind the freeze finds it, even if it had been looked at before."""
    node, (user, *_) = pair.nodes["b"], users([UPPER[0]])

    async def freeze(connection: Connection) -> None:
        await connection.execute(
            "UPDATE slots SET state = 'frozen', move = 1, attempt = 1 WHERE slot = %s", [UPPER[0]]
        )

    async with (
        await psycopg.AsyncConnection.connect(node.leadership._conninfo, autocommit=True) as other,
        other.transaction(),
    ):
        # By another one than the writer, as if it came between: the process does not know it yet.
        await freeze(other)
        await other.execute("UPDATE writer SET slots_seq = slots_seq + 1")
    assert list(await node.tell((user, "p", 5, True))) == [OP_CODE_MOVING]
    assert await node.rows() == []


async def test_of_a_user_who_is_being_purged_all_is_accepted_and_nothing_written(pair: Pair) -> None:
    """A purge ends each like, and deletes all that is known in the end: to note the ends before is for nothing."""
    node, (user, other) = pair.nodes["b"], users([UPPER[0]], 2)
    await node.tell((user, "p", 5, True), (user, "q", 6, True))
    node.writer.user_purge_marks.add(user, PurgeMark(UPPER[0], 1))
    assert list(await node.tell((user, "p", 7, False), (user, "new", 8, True), (other, "p", 9, True))) == []
    assert await node.rows() == sorted([(user, "p", 5, True), (user, "q", 6, True), (other, "p", 9, True)])
    node.writer.user_purge_marks.remove(user, UPPER[0])
    await node.tell((user, "p", 10, False))
    assert (user, "p", 10, False) in await node.rows()


async def test_that_somebody_is_being_purged_counts_only_while_the_process_may_write(pair: Pair) -> None:
    """Another one may have ended the purge since, and the user likes again."""
    node, (user, *_) = pair.nodes["b"], users([UPPER[0]])
    node.writer.user_purge_marks.add(user, PurgeMark(UPPER[0], 1))
    async with await psycopg.AsyncConnection.connect(node.leadership._conninfo, autocommit=True) as other:
        await other.execute("UPDATE writer SET slots_seq = slots_seq + 1")
    assert list(await node.tell((user, "p", 5, True))) == []
    assert await node.rows() == [(user, "p", 5, True)]


async def test_a_frozen_slot_of_users_holds_up_nobody_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what it refuses fills whole pages; and it is told once it takes writes again."""
    monkeypatch.setattr(user_feed_module, "PAGE", 50)
    frozen_user, others = users([UPPER[0]])[0], users(UPPER[1:], 4)

    async def become(state: str) -> None:
        async def change(connection: Connection) -> None:
            await connection.execute(
                "UPDATE slots SET state = %s, move = 1, attempt = 1 WHERE slot = %s", [state, UPPER[0]]
            )

        await pair.nodes["b"].writer.change_slots(change)

    await become("frozen")
    posts = [f"p{n}" for n in range(100)]  # in all slots
    await pair.nodes["a"].act(*[(True, frozen_user, post) for post in posts])
    for post in posts:
        await pair.nodes["a"].act(*[(True, user, post) for user in others])
    told = {(user, post) for user in others for post in posts}
    await pair.told(told)
    await become("owner")
    await pair.told(told | {(frozen_user, post) for post in posts})


async def test_likes_and_unlikes_reach_the_owners_of_the_users(pair: Pair) -> None:
    edges = [(user, f"p{n}") for n, user in enumerate(users(range(SLOTS), 20))]
    node = pair.nodes["a"]
    await node.act(*[(True, *edge) for edge in edges])
    await pair.told(set(edges))
    await node.act(*[(False, *edge) for edge in edges[::2]], (False, "nobody", "p"))
    await pair.told(set(edges[1::2]))
    assert {slot_of(user, SLOTS) in UPPER for user, *_ in await pair.nodes["b"].rows()} == {True}


async def test_what_was_never_changed_is_told_as_a_first_like(pair: Pair) -> None:
    """Not an unlike, and not what was liked again."""
    node, (user, *_) = pair.nodes["a"], users(UPPER)
    await node.act((True, user, "first"), (True, user, "ended"), (True, user, "again"))
    await pair.told({(user, "first"), (user, "ended"), (user, "again")})
    assert pair.first == {(user, "first"): True, (user, "ended"): True, (user, "again"): True}
    await node.act((False, user, "ended"), (False, user, "again"))
    await node.act((True, user, "again"))
    await until(lambda: pair.first == {(user, "first"): True, (user, "ended"): False, (user, "again"): False})


async def test_many_changes_are_told_page_by_page(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one slot and of all; each call keeps to the page."""
    monkeypatch.setattr(user_feed_module, "PAGE", 50)
    edges = [(f"u{n}", f"p{n % 7}") for n in range(700)]
    await pair.nodes["a"].act(*[(True, *edge) for edge in edges], *[(True, f"v{n}", "p") for n in range(300)])
    await pair.told({*edges, *((f"v{n}", "p") for n in range(300))})
    assert max(rows for _, rows in pair.calls) <= 50


async def test_a_node_that_does_not_answer_holds_up_nobody_else(pair: Pair) -> None:
    """Neither one that refuses nor one that hangs; both get everything in the end."""
    lower, upper = users(range(SLOTS // 2)), users(UPPER)
    node = pair.nodes["a"]
    pair.down.add("b")
    for post in ("p1", "p2", "p3"):
        await node.act(*[(True, user, post) for user in (*lower, *upper)])
        await until(lambda: node.feed.lags()["a"] == 0.0)
        assert node.feed.lags()["b"] > 0.0
    await pair.told({(user, post) for user in lower for post in ("p1", "p2", "p3")})
    pair.gate.clear()
    pair.down.clear()
    await until(lambda: pair.calls[-1][0] == "b")
    await node.act(*[(True, user, "p4") for user in (*lower, *upper)])
    posts = ("p1", "p2", "p3", "p4")
    await pair.told({(user, post) for user in lower for post in posts})
    pair.gate.set()
    await pair.told({(user, post) for user in (*lower, *upper) for post in posts})
    await until(lambda: node.feed.lags() == {"a": 0.0, "b": 0.0})


async def test_a_restarted_node_goes_on_from_its_marks(pair: Pair) -> None:
    """Nothing is told again that had been noted, and all that had not."""
    node = pair.nodes["a"]
    edges = {(user, "p") for user in users(range(SLOTS), 40)}
    await node.act(*[(True, *edge) for edge in edges])
    await pair.told(edges)
    await node.noted()
    await node.stop()
    pair.calls.clear()
    new = pair.nodes["a"] = Node(node.leadership._conninfo, pair.topologies, pair._deliver)
    await new.start()
    await new.act((True, users(UPPER)[0], "q"))
    await pair.told({*edges, (users(UPPER)[0], "q")})
    assert sum(rows for _, rows in pair.calls) <= 1 + len(edges) // 2
    assert ("b", 1) in pair.calls


async def test_whoever_gets_the_users_of_a_slot_is_told_what_the_one_before_was_not(pair: Pair) -> None:
    """Changes for b wait while it is down; then its users are a's, and a has none of these changes."""
    node, upper = pair.nodes["a"], users(UPPER)
    await node.act(*[(True, user, "p1") for user in upper])
    await pair.told({(user, "p1") for user in upper})
    pair.down.add("b")
    await node.act(*[(True, user, "p2") for user in upper], *[(True, user, "p2") for user in users([0])])
    await until(lambda: node.feed.lags()["a"] == 0.0 and node.feed.lags()["b"] > 0.0)
    pair.topologies.become(["a"] * SLOTS)
    expected = {(user, "p2") for user in (*upper, *users([0]))}
    async with asyncio.timeout(20):
        while not expected <= {row[:2] for row in await node.rows()}:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
    assert set(node.feed.lags()) == {"a"}


async def test_marks_go_with_a_slot(pair: Pair) -> None:
    """What comes with it replaces what was there; what comes with nothing is told from the beginning."""
    node = pair.nodes["a"]
    await node.act((True, users(UPPER)[0], "p"))
    await pair.told({(users(UPPER)[0], "p")})
    await node.noted()
    marks = node.feed.marks_of(3)
    assert marks is not None
    assert marks.routes == digest(pair.topologies.latest.owners)
    assert marks.by_node.keys() == {"a", "b"}
    feed = node.tasks.pop()
    feed.cancel()
    await asyncio.wait((feed,))
    for given in (Marks(7, {"a": 5, "c": 9}), None):

        async def take(connection: Connection, given: Marks | None = given) -> None:
            await connection.execute("UPDATE slots SET epoch = epoch + 2 WHERE slot = 3")
            await user_store.take_marks(connection, 3, given)

        await node.writer.change_slots(take)
        assert node.feed.marks_of(3) is None
        async with node.pool.connection() as connection:
            assert (await user_store.read_marks(connection, [3])).get(3) == given


async def test_a_node_whose_users_side_is_off_takes_nothing(pair: Pair) -> None:
    """And says so, so that it is told again."""
    off = UserLikes(pair.nodes["b"].ownership, pair.nodes["b"].writer, enabled=False)
    assert list(await off.apply([ToldEdge(users(UPPER)[0], "p", 5, True, 5)], [EPOCH])) == [
        OP_CODE_UNAVAILABLE
    ]
    assert await pair.nodes["b"].rows() == []


async def test_a_database_of_before_gets_the_tables_of_the_slots_that_it_holds(
    database: str, tmp_path: Path
) -> None:
    """Of those that have moved away there is nothing to make."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await migrate(connection, migrations_before("0006", tmp_path), schema="likering")
        await connection.execute(
            "INSERT INTO slots (slot, epoch, state) VALUES (1, 1, 'owner'), (2, 1, 'frozen'), (3, 1, 'moved')"
        )
        await migrate(connection, MIGRATIONS, schema="likering")
        cursor = await connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'user_likes'::regclass ORDER BY 1"
        )
        assert await cursor.fetchall() == [("user_likes_s1",), ("user_likes_s2",)]
