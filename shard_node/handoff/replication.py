"""The way of a slot's changes from source to target: Postgres' own logical replication, one way for each attempt.

Nothing here is ever made again under the same name: a replication slot that was lost and made anew would miss what
was written in between, silently.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from likering.topology.move_names import Attempt, partition
from shard_node.partitions import PARENTS, attach_partition, hold_writer, make_known
from shard_node.store import Connection, Cursor, FenceLost

SEAL = 0
"""The probe that the source writes when it freezes the slot."""
_LOOK = 0.001
"""Seconds between two looks for a row that is on its way."""
_LONGEST_LOOK = 0.01
MOST_SUMMED = 50_000
"""Posts of a slot that are added up while it is frozen, in some 5 ms; of a slot with more of them, none are."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What a slot's posts add up to."""

    posts: int
    versions: int
    likes: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Which history of which server changes come from; another timeline begins with each promotion of a standby."""

    system_identifier: str
    timeline: int


async def identify(replicating: AsyncConnection[TupleRow]) -> Origin:
    """The origin behind a replication connection."""
    cursor = await replicating.execute("IDENTIFY_SYSTEM")
    row = await cursor.fetchone()
    assert row is not None
    return Origin(str(row[0]), int(row[1]))


async def publish(source: Connection, attempt: Attempt) -> None:
    """Makes the publication. Before the replication slot: changes are decoded by the catalog of their own time."""
    tables = SQL(", ").join(Identifier(partition(parent, attempt.slot)) for parent in PARENTS)
    await source.execute(
        SQL(
            "CREATE PUBLICATION {name} FOR TABLE {tables},"
            " seals WHERE (slot = {slot} AND move = {move} AND attempt = {attempt})"
        ).format(
            name=Identifier(attempt.replication),
            tables=tables,
            slot=Literal(attempt.slot),
            move=Literal(attempt.move),
            attempt=Literal(attempt.attempt),
        )
    )


async def attach(target: Connection, attempt: Attempt, generation: int) -> None:
    """Gives the staging tables their names and makes them partitions that every session sees. Raises FenceLost."""
    try:
        async with target.pipeline():
            await target.execute("BEGIN")
            # What is built on it comes later in the log, and commits wait for the end of the transaction.
            await target.execute("SET LOCAL synchronous_commit = off")
            for parent in PARENTS:
                name = partition(parent, attempt.slot)
                await target.execute(
                    SQL("ALTER TABLE {} RENAME TO {}").format(
                        Identifier(attempt.staging(parent)), Identifier(name)
                    )
                )
                await target.execute(
                    SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(Identifier(name))
                )
                await attach_partition(target, parent, name, attempt.slot)
            await hold_writer(target, generation)
            await target.execute("COMMIT")
    except psycopg.errors.DivisionByZero as error:
        await target.rollback()
        raise FenceLost from error
    except psycopg.Error:
        await target.rollback()
        raise
    await make_known(target)


async def subscribe(target: Connection, source_dsn: str, attempt: Attempt) -> None:
    """Has this node's Postgres follow the publication from the replication slot on."""
    await target.execute(
        SQL(
            "CREATE SUBSCRIPTION {name} CONNECTION {dsn} PUBLICATION {name} WITH (copy_data = false,"
            " create_slot = false, slot_name = {slot_name}, synchronous_commit = 'on', disable_on_error = true,"
            " binary = true)"
        ).format(
            name=Identifier(attempt.replication),
            dsn=Literal(source_dsn),
            slot_name=Literal(attempt.replication),
        )
    )


async def probe(source: Connection, target: Connection, attempt: Attempt, number: int) -> float:
    """Seconds that a row takes from the source's commit until it is seen on the target."""
    await source.execute(
        "INSERT INTO seals (slot, move, attempt, probe, last_rev) VALUES (%s, %s, %s, %s, 0)",
        [attempt.slot, attempt.move, attempt.attempt, number],
    )
    began = time.monotonic()
    await arrival(target, attempt, number)
    return time.monotonic() - began


async def arrival(target: Connection, attempt: Attempt, number: int) -> None:
    """Returns when a probe is to be seen on the target: everything before it is there. Has no deadline."""
    # Ever more seldom: the first one waits for the start of the servers' processes.
    await _seen(target, attempt, number, SQL("1"), longest_look=_LONGEST_LOOK)


async def sealed(target: Connection, attempt: Attempt, *, with_sums: bool) -> Sums | None:
    """Returns as soon as the seal is to be seen; the sums over the slot's posts in the same look. Has no deadline."""
    what = SQL("({})").format(_sums(attempt.slot, SQL("array[{}]"))) if with_sums else SQL("NULL")
    row = await _seen(target, attempt, SEAL, what)
    return Sums(*row[0]) if with_sums else None


async def summable(connection: Connection, slot: int) -> bool:
    """Whether the slot has few enough posts to be added up while nobody can write. By the statistics of the table."""
    cursor = await connection.execute(
        "SELECT greatest(reltuples, pg_stat_get_live_tuples(oid)) <= %s FROM pg_class WHERE oid = %s::regclass",
        [MOST_SUMMED, partition("posts", slot)],
    )
    row = await cursor.fetchone()
    return row is not None and row[0]


async def _seen(
    target: Connection, attempt: Attempt, number: int, what: Composable, longest_look: float = _LOOK
) -> TupleRow:
    query = SQL("SELECT {} FROM seals WHERE slot = %s AND move = %s AND attempt = %s AND probe = %s").format(
        what
    )
    look = _LOOK
    while True:
        cursor = await target.execute(query, [attempt.slot, attempt.move, attempt.attempt, number])
        row: TupleRow | None = await cursor.fetchone()
        if row is not None:
            return row
        await asyncio.sleep(look)
        look = min(1.5 * look, longest_look)


async def subscription_error(target: Connection, attempt: Attempt) -> str:
    """Why the subscription does not go on; empty when it does."""
    cursor = await target.execute(
        "SELECT subenabled FROM pg_subscription WHERE subname = %s", [attempt.replication]
    )
    row = await cursor.fetchone()
    if row is None:
        return "the subscription is gone"
    return "" if row[0] else "the subscription was disabled by an error; the Postgres log of this node has it"


async def replication_slot_problem(source: Connection, attempt: Attempt) -> str:
    """What is wrong with the replication slot; empty when nothing is."""
    cursor = await source.execute(
        "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", [attempt.replication]
    )
    row = await cursor.fetchone()
    if row is None:
        return "the replication slot is gone"
    return f"the replication slot is {row[0]}" if row[0] in ("lost", "unreserved") else ""


async def reading_sums(connection: Connection, slot: int) -> Cursor:
    """Asks for the sums over the slot's posts; ``sums_read`` reads the result."""
    return await connection.execute(_sums(slot, SQL("{}")))


async def sums_read(cursor: Cursor) -> Sums:
    """The sums that a ``reading_sums`` found."""
    row = await cursor.fetchone()
    assert row is not None
    return Sums(*row)


def _sums(slot: int, form: SQL) -> Composed:
    """The query of the sums: three columns, in the given form."""
    columns = SQL("count(*), coalesce(sum(version), 0)::bigint, coalesce(sum(like_count), 0)::bigint")
    return SQL("SELECT {} FROM {}").format(form.format(columns), Identifier(partition("posts", slot)))
