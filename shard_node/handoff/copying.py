"""Copies a slot's tables from another node's Postgres, in one exported snapshot, at a limited rate.

Binary COPY out there, binary COPY in here, in pieces: a long writing transaction would hold up the creation of
replication slots on this node. The server sends a row per message, so rows are counted without being looked into.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, AsyncCopy, OperationalError
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier, Literal

from likering.topology.move_names import Attempt, partition
from shard_node.partitions import PARENTS, create_slot_table, index_slot_table
from shard_node.row_budget import RowBudget
from shard_node.store import Connection

PIECE = 10_000
"""Most rows of one transaction."""
_HEADER = 19
"""Bytes: signature, flags, and the length of an extension that is empty."""
_TRAILER = b"\xff\xff"
_COLUMNS = {
    "edges": ("rev", "intent", "first_rev", "liked_at", "post_no", "slot", "liked", "user_id"),
    "posts": (
        "version",
        "like_count",
        "post_no",
        "slot",
        "post_id",
        "purge_began",
        "purge_erased",
        "purged_rev",
        "erased_rev",
    ),
    "user_likes": ("slot", "user_id", "since", "entries"),
}


async def export_snapshot(connection: AsyncConnection[TupleRow], name: str) -> str:
    """Makes a replication slot and returns the snapshot of that very moment.

    ``connection`` is a replication connection; the snapshot lives until its next command.
    """
    cursor = await connection.execute(
        SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')").format(Identifier(name))
    )
    row = await cursor.fetchone()
    assert row is not None
    return str(row[2])


async def in_the_way(source: Connection, backend: int) -> str:
    """The processes whose transactions a server's process waits for; empty when it waits for none.

    A replication slot is made once all transactions that write have ended, those of strangers too.
    """
    cursor = await source.execute(
        "SELECT pid, application_name FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids(%s)) ORDER BY xact_start",
        [backend],
    )
    return ", ".join(
        f"process {pid}" + (f" ({name})" if name else "") for pid, name in await cursor.fetchall()
    )


async def estimate_rows(source: Connection, slot: int) -> int:
    """About how many rows the slot's tables have."""
    cursor = await source.execute(
        "SELECT coalesce(sum(greatest(reltuples, pg_stat_get_live_tuples(oid))), 0)::bigint FROM pg_class"
        " WHERE oid = ANY(%s::regclass[])",
        [[partition(parent, slot) for parent in PARENTS]],
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def copy_tables(
    source: Connection,
    snapshot: str,
    target: Connection,
    attempt: Attempt,
    budget: RowBudget,
    progress: Callable[[int], None],
) -> int:
    """Copies the slot's tables as of the snapshot into staging tables; returns the number of rows.

    Both connections are in autocommit. ``progress`` is told now and then how many rows there are.
    """
    copied = 0
    async with _without_the_disk(target):
        async with source.transaction():
            await source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await source.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
            # Of a copy that is read slowly on purpose the server must not think that its reader is gone, or forgetful.
            await source.execute("SET LOCAL tcp_user_timeout = 0")
            await source.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            async with target.pipeline():
                for parent in PARENTS:
                    await _create_table(target, parent, attempt)
            for parent in PARENTS:
                copied = await _copy_table(source, target, parent, attempt, budget, copied, progress)
        for parent in PARENTS:
            async with target.pipeline():
                await _finish_table(target, parent, attempt)
    progress(copied)
    return copied


@asynccontextmanager
async def _without_the_disk(connection: Connection) -> AsyncIterator[None]:
    """Commits do not wait for the disk: whatever builds on them does, later in the same log.

    Twenty waits for each slot, next to callers whose commits wait for the same disk.
    """
    await connection.execute("SET synchronous_commit = off")
    try:
        yield
    finally:
        if not connection.broken:
            await connection.execute("RESET synchronous_commit")


async def _create_table(target: Connection, parent: str, attempt: Attempt) -> None:
    name = attempt.staging(parent)
    await create_slot_table(target, parent, name, indexes=False)
    await target.execute(SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(Identifier(name)))


async def _copy_table(
    source: Connection,
    target: Connection,
    parent: str,
    attempt: Attempt,
    budget: RowBudget,
    copied: int,
    progress: Callable[[int], None],
) -> int:
    columns = SQL(", ").join(Identifier(column) for column in _COLUMNS[parent])
    out = SQL("COPY {} ({}) TO STDOUT (FORMAT binary)").format(
        Identifier(partition(parent, attempt.slot)), columns
    )
    into = SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(Identifier(attempt.staging(parent)), columns)
    writing: asyncio.Task[int] | None = None
    async with source.cursor().copy(out) as reading:
        try:
            async for header, rows in _pieces(source, reading):
                # One piece is written while the next one is read.
                if writing is not None:
                    copied += await writing
                    progress(copied)
                writing = asyncio.create_task(_write(target, into, header, rows, budget))
            if writing is not None:
                copied += await writing
        finally:
            if writing is not None:
                writing.cancel()
                await asyncio.wait((writing,))
    return copied


async def _pieces(source: Connection, reading: AsyncCopy) -> AsyncIterator[tuple[bytes, list[bytes]]]:
    """The header of a binary COPY and some of its rows, as often as there are PIECE of them, and the rest."""
    header = b""
    rows: list[bytes] = []
    async for message in reading:
        data = bytes(message)
        if not header:
            header, data = data[:_HEADER], data[_HEADER:]
        while True:
            if data and data != _TRAILER:
                rows.append(data)
            if len(rows) == PIECE:
                yield header, rows
                rows = []
            if data == _TRAILER:
                break
            # What has arrived with it: a round of psycopg's for each row would cost four times as much.
            size, more = source.pgconn.get_copy_data(1)
            if size < 0:
                # No trailer has come: the server gave up.
                result = source.pgconn.get_result()
                raise OperationalError(result.get_error_message() if result else "the copy was cut off")
            if size == 0:
                break
            data = bytes(more)
    if rows:
        yield header, rows


async def _write(
    target: Connection, into: Composed, header: bytes, rows: list[bytes], budget: RowBudget
) -> int:
    await budget.take(len(rows))
    async with target.cursor().copy(into) as writing:
        await writing.write(header + b"".join(rows) + _TRAILER)
    return len(rows)


async def _finish_table(target: Connection, parent: str, attempt: Attempt) -> None:
    name = Identifier(attempt.staging(parent))
    await index_slot_table(target, parent, attempt.staging(parent))
    # Attaching need not look at the rows then.
    await target.execute(
        SQL("ALTER TABLE {} ADD CONSTRAINT one_slot CHECK (slot = {})").format(name, Literal(attempt.slot))
    )
    await target.execute(SQL("ANALYZE {}").format(name))
