"""A slot's way from one Postgres to another, without any node: copy, replication, comparison, leftovers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from likering.dev.postgres import PostgresServer
from likering.topology.move_names import Attempt, kept, partition
from likering.topology.moves import MoveState, SlotMove
from shard_node.database import conninfo
from shard_node.handoff import copying, leftovers, replication
from shard_node.handoff.copying import copy_tables, export_snapshot
from shard_node.handoff.replication import Sums
from shard_node.handoff.source import detach
from shard_node.handoff.verification import verify
from shard_node.partitions import (
    PARENTS,
    create_partitions,
    create_slot_table,
    index_slot_table,
    rename_unowned,
)
from shard_node.row_budget import RowBudget
from shard_node.store import Connection, FenceLost
from shard_node.user_chunks import Entry
from tests.integration.node_database import prepared
from tests.parts.moves import slot_move
from tests.parts.user_side import write_told

SLOT = 3
ATTEMPT = Attempt(SLOT, move=7, attempt=1)
LAST_REV = 1000


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A second server: one cannot subscribe to itself."""
    server = PostgresServer(tmp_path_factory.mktemp("other"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def other_database(other_server: PostgresServer) -> Iterator[str]:
    """An empty database on the second server."""
    with psycopg.connect(other_server.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE target")
    yield other_server.dsn_of("target")
    with psycopg.connect(other_server.dsn_of("target"), autocommit=True) as connection:
        for (name,) in connection.execute("SELECT subname FROM pg_subscription").fetchall():
            for command in ("DISABLE", "SET (slot_name = NONE)"):
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} " + command).format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(name)))
    with psycopg.connect(other_server.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE target WITH (FORCE)")


@pytest.fixture
async def source(database: str) -> AsyncIterator[Connection]:
    """A node's database that has the slot: ten edges of three posts."""
    async with prepared(database, slots=[SLOT]) as connection:
        await connection.execute(
            "INSERT INTO edges (rev, slot, liked, post_no, user_id)"
            " SELECT n, %s, n %% 5 > 0, 1 + n %% 3, convert_to('u,' || n, 'UTF8') FROM generate_series(1, 10) AS n",
            [SLOT],
        )
        await connection.execute(
            "INSERT INTO posts (version, like_count, post_no, slot, post_id)"
            " SELECT count(*), count(*) FILTER (WHERE liked), post_no, slot, convert_to('p' || post_no - 1, 'UTF8')"
            " FROM edges GROUP BY slot, post_no"
        )
        await write_told(
            connection, SLOT, {f"u{n}": [Entry(f"p,{n}", n, n % 3 > 0, n)] for n in range(1, 13)}
        )
        yield connection
        await leftovers_dropped(connection)


async def leftovers_dropped(connection: Connection) -> None:
    """Replication slots would keep the database from being dropped."""
    for name in (await leftovers.take_inventory(connection)).replication_slots:
        await leftovers.drop_replication_slot(connection, name)


@pytest.fixture
async def target(other_database: str) -> AsyncIterator[Connection]:
    """A node's database without slots."""
    async with prepared(other_database, slots=[]) as connection:
        yield connection


async def follow(
    source: Connection, database: str, target: Connection, budget: RowBudget | None = None
) -> int:
    """Copies the slot and subscribes to its changes; returns the number of rows copied."""
    await replication.publish(source, ATTEMPT)
    async with await psycopg.AsyncConnection.connect(
        make_conninfo(database, replication="database"), autocommit=True
    ) as replicating:
        snapshot = await export_snapshot(replicating, ATTEMPT.replication)
        # After the snapshot, so it must come by replication.
        await source.execute("UPDATE edges SET rev = 11, first_rev = 1, liked = NOT liked WHERE rev = 1")
        await source.execute(
            "UPDATE posts SET version = version + 1, like_count = like_count - 1 WHERE post_id = 'p1'"
        )
        async with await psycopg.AsyncConnection.connect(
            conninfo(database, "copy"), autocommit=True
        ) as reading:
            await reading.execute("SET idle_in_transaction_session_timeout = 100")
            rows = await copy_tables(
                reading, snapshot, target, ATTEMPT, budget or RowBudget(), lambda rows: None
            )
    await replication.attach(target, ATTEMPT, generation=1)
    await replication.subscribe(target, database, ATTEMPT)
    return rows


async def rows_of(connection: Connection, table: str) -> list[tuple[object, ...]]:
    """All rows, in order."""
    cursor = await connection.execute(
        sql.SQL("SELECT * FROM {} ORDER BY 1, 2, 3, 4").format(sql.Identifier(table))
    )
    return await cursor.fetchall()


async def sums_of(connection: Connection) -> Sums:
    """The sums over the slot's posts."""
    return await replication.sums_read(await replication.reading_sums(connection, SLOT))


async def test_a_slot_arrives_whole_and_stays_in_step(
    source: Connection, target: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the snapshot had and what came after it; the seal comes last, and the sums agree."""
    monkeypatch.setattr(copying, "PIECE", 4)
    assert await follow(source, database, target) == 25
    async with asyncio.timeout(30):
        assert await replication.probe(source, target, ATTEMPT, 1) > 0
    for parent in PARENTS:
        name = partition(parent, SLOT)
        assert await rows_of(target, name) == await rows_of(source, name)
        # Attached: to be seen through the parent too.
        assert await rows_of(target, parent) == await rows_of(source, parent)
    assert await sums_of(target) == await sums_of(source) == Sums(3, 11, 7)
    assert await replication.subscription_error(target, ATTEMPT) == ""
    assert await replication.replication_slot_problem(source, ATTEMPT) == ""


@pytest.mark.parametrize("parent", PARENTS)
async def test_a_copy_has_every_column_and_index_of_its_table(target: Connection, parent: str) -> None:
    """They are written down twice: one that a migration has added and a copy leaves out would be lost by moving."""
    cursor = await target.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [parent],
    )
    assert sorted(copying._COLUMNS[parent]) == sorted(name for (name,) in await cursor.fetchall())
    await create_slot_table(target, parent, "like_parent", indexes=True)
    await create_slot_table(target, parent, "by_hand", indexes=False)
    await index_slot_table(target, parent, "by_hand")
    assert await indexes_of(target, "by_hand") == await indexes_of(target, "like_parent") != []


async def indexes_of(connection: Connection, table: str) -> list[str]:
    """What each index is on."""
    cursor = await connection.execute(
        "SELECT indisunique || substring(pg_get_indexdef(indexrelid) FROM ' USING .*') FROM pg_index"
        " WHERE indrelid = %s::regclass ORDER BY 1",
        [table],
    )
    return [index for (index,) in await cursor.fetchall()]


async def test_a_slot_of_many_posts_is_not_added_up(
    source: Connection, target: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(source, database, target)
    assert await replication.summable(target, SLOT)
    monkeypatch.setattr(replication, "MOST_SUMMED", 2)
    assert not await replication.summable(target, SLOT)
    await source.execute(
        "INSERT INTO seals VALUES (%s, %s, %s, 0, 9)", [ATTEMPT.slot, ATTEMPT.move, ATTEMPT.attempt]
    )
    async with asyncio.timeout(30):
        assert await replication.sealed(target, ATTEMPT, with_sums=False) is None
        assert await replication.sealed(target, ATTEMPT, with_sums=True) == Sums(3, 11, 7)


async def test_a_copy_may_wait_for_its_rate(source: Connection, target: Connection, database: str) -> None:
    """The source has sent everything long before it may be written; its transaction is idle meanwhile."""
    budget = RowBudget()
    budget.limit(40)
    assert await follow(source, database, target, budget) == 25


async def test_a_table_may_take_its_time(
    source: Connection, target: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary key of a large slot takes seconds."""
    finish = copying._finish_table

    async def slowly(target: Connection, parent: str, attempt: Attempt) -> None:
        await target.execute("SELECT pg_sleep(0.3)")
        await finish(target, parent, attempt)

    monkeypatch.setattr(copying, "_finish_table", slowly)
    assert await follow(source, database, target) == 25


async def test_a_copy_that_the_server_ends_says_why(
    source: Connection, target: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that have come do not count, and the error is the server's."""
    await source.execute(
        "INSERT INTO edges (rev, slot, liked, post_no, user_id)"
        " SELECT n, 3, true, 1, convert_to(repeat('v', 100) || n, 'UTF8') FROM generate_series(11, 60000) AS n"
    )
    write = copying._write

    async def end_source(target: Connection, into: sql.Composed, *rest: Any) -> int:
        await source.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'copy'"
        )
        return await write(target, into, *rest)

    monkeypatch.setattr(copying, "_write", end_source)
    with pytest.raises(psycopg.OperationalError, match="canceling statement"):
        await follow(source, database, target)


async def test_trouble_of_the_replication_is_told(
    source: Connection, target: Connection, database: str
) -> None:
    """A conflicting row disables the subscription; a replication slot may be gone."""
    await follow(source, database, target)
    await target.execute(
        "INSERT INTO edges (rev, slot, liked, post_no, user_id) VALUES (99, 3, true, 9, 'u')"
    )
    await source.execute(
        "INSERT INTO edges (rev, slot, liked, post_no, user_id) VALUES (12, 3, true, 9, 'u')"
    )
    async with asyncio.timeout(30):
        while not await replication.subscription_error(target, ATTEMPT):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nobody tells of it
    assert "disabled" in await replication.subscription_error(target, ATTEMPT)
    await leftovers.drop_replication_slot(source, ATTEMPT.replication)
    assert await replication.replication_slot_problem(source, ATTEMPT) == "the replication slot is gone"


async def set_aside(source: Connection, move: int) -> None:
    """As a source does when its target serves."""
    for parent in PARENTS:
        name = partition(parent, SLOT)
        await detach(source, parent, name)
        await source.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                sql.Identifier(name), sql.Identifier(kept(parent, SLOT, move))
            )
        )


@pytest.fixture
async def both(source: Connection, target: Connection, database: str) -> tuple[Connection, Connection]:
    """Both sides after the move; the target has changed an edge and got a new one since."""
    await follow(source, database, target)
    async with asyncio.timeout(30):
        await replication.probe(source, target, ATTEMPT, 1)
    await set_aside(source, ATTEMPT.move)
    await target.execute("UPDATE edges SET rev = 2000, liked = true WHERE user_id = 'u,5'")
    await target.execute(
        "INSERT INTO edges (rev, slot, liked, post_no, user_id) VALUES (2001, 3, true, 3, 'new')"
    )
    await target.execute(
        "UPDATE posts SET version = version + 2, like_count = like_count + 2 WHERE post_id = 'p2'"
    )
    return source, target


async def test_a_purge_since_the_move_is_no_difference(both: tuple[Connection, Connection]) -> None:
    """Its rows are gone without a trace but for the post's row. One of before the move explains nothing."""
    target = both[1]
    await target.execute("DELETE FROM edges WHERE post_no = 2")
    await target.execute("UPDATE posts SET like_count = 0 WHERE post_id = 'p1'")
    for mark, problem in (
        ("purge_began = 5, purged_rev = NULL", ""),
        (f"purge_began = NULL, purged_rev = {LAST_REV + 1}", ""),
        (f"purge_began = NULL, purged_rev = {LAST_REV}", "digest"),
        (f"purged_rev = NULL, erased_rev = {LAST_REV + 1}", ""),
        (f"purged_rev = NULL, erased_rev = {LAST_REV}", "digest"),
    ):
        await target.execute(f"UPDATE posts SET {mark} WHERE post_id = 'p1'".encode())
        verdict = await verify(*both, SLOT, ATTEMPT.move, LAST_REV)
        assert problem in verdict.problem
        assert bool(verdict.problem) is bool(problem), verdict


async def test_equal_sides_are_found_equal(both: tuple[Connection, Connection]) -> None:
    """Whatever the target has changed since; a like that was repeated has only a newer intent."""
    await both[1].execute("UPDATE edges SET intent = rev + 1 WHERE user_id = 'u,7'")
    await write_told(both[1], SLOT, {"new": [Entry("p", 5, True, 5)]})
    verdict = await verify(*both, SLOT, ATTEMPT.move, LAST_REV)
    assert (verdict.problem, verdict.rows, verdict.changed_since) == ("", 9, 2)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE edges SET intent = rev - 1 WHERE user_id = 'u,7'", "digest"),
        ("UPDATE edges SET liked = NOT liked WHERE user_id = 'u,7'", "digest"),
        ("DELETE FROM edges WHERE user_id = 'u,7'", "digest"),
        ("UPDATE edges SET first_rev = 7 WHERE user_id = 'u,10'", "digest"),
        ("UPDATE posts SET like_count = like_count + 1 WHERE post_id = 'p0'", "number of likes"),
        ("DELETE FROM posts WHERE post_id = 'p0'", "numbers"),
        ("UPDATE posts SET post_id = 'other' WHERE post_id = 'p0'", "numbers"),
        (
            "DELETE FROM user_likes WHERE right(encode(user_id, 'escape'), 2) = 'u7'",
            "1 likes of the slot's users",
        ),
    ],
)
async def test_every_difference_is_found(
    both: tuple[Connection, Connection], statement: str, problem: str
) -> None:
    """One row is enough."""
    source, target = both
    await target.execute(statement.encode())
    assert problem in (await verify(source, target, SLOT, ATTEMPT.move, LAST_REV)).problem


class Moves:
    """A store of moves that only lists them."""

    def __init__(self, *moves: SlotMove) -> None:
        self._moves = list(moves)

    async def to_do(self, node: str) -> list[SlotMove]:
        """All of them."""
        return self._moves

    async def ended(self, moves: Collection[int]) -> set[int]:
        """All others."""
        return set(moves) - {move.move for move in self._moves}

    async def never_compared(self, moves: Collection[int]) -> set[int]:
        """None of them."""
        return set()


async def test_nothing_is_left_of_a_move_that_has_ended(
    source: Connection, target: Connection, database: str
) -> None:
    """On both sides; while it goes on nothing is touched."""
    await follow(source, database, target)
    current = Moves(slot_move(MoveState.CATCHING_UP))
    await replication.probe(source, target, Attempt(SLOT, move=7, attempt=1), 1)
    for connection, name, own in ((source, "a", [SLOT]), (target, "b", [])):
        assert await leftovers.clear(connection, current, name, lambda own=own: own, 1) == 0  # type: ignore[arg-type,misc]
    gone = Moves()
    assert await leftovers.clear(source, gone, "a", lambda: [SLOT], 1) == 2  # type: ignore[arg-type]
    assert await leftovers.clear(target, gone, "b", list, 1) == 4  # type: ignore[arg-type]
    inventory = await leftovers.take_inventory(source)
    assert (inventory.publications, inventory.replication_slots, inventory.sealed) == ([], [], [])
    assert inventory.tables == ["edges_s3", "posts_s3", "user_likes_s3"]
    assert await leftovers.take_inventory(target) == leftovers.Inventory([], [], [], [])


async def test_a_new_attempt_finds_a_clean_slot(
    source: Connection, target: Connection, database: str
) -> None:
    """The subscription of the attempt before would write into the new tables."""
    await follow(source, database, target)
    await leftovers.clear_slot(target, Attempt(SLOT, move=7, attempt=2), generation=1)
    assert await leftovers.take_inventory(target) == leftovers.Inventory([], [], [], [])


async def test_a_slot_of_the_nodes_own_is_never_cleared(source: Connection) -> None:
    """Whatever moves and memory say: the slot's row is looked at in the transaction that takes the name away."""
    assert await leftovers.clear(source, Moves(), "a", list, 1) == 0  # type: ignore[arg-type]
    assert (await leftovers.take_inventory(source)).tables == ["edges_s3", "posts_s3", "user_likes_s3"]


async def test_a_process_of_an_earlier_generation_clears_nothing(target: Connection) -> None:
    """It may have been stopped between its look and what it does."""
    await create_partitions(target, [SLOT])
    with pytest.raises(FenceLost):
        await leftovers.clear(target, Moves(), "b", list, 0)  # type: ignore[arg-type]
    assert (await leftovers.take_inventory(target)).tables == ["edges_s3", "posts_s3", "user_likes_s3"]


async def test_a_later_table_of_the_same_name_is_spared(target: Connection) -> None:
    """A look at the tables is no longer true when another attempt has attached its own."""
    await create_partitions(target, [SLOT])
    names = {"edges": "edges_s3_m0_a1"}
    assert await rename_unowned(target, SLOT, names, 1, {"edges_s3": 1})
    assert (await leftovers.take_inventory(target)).tables == ["edges_s3", "posts_s3", "user_likes_s3"]
