"""Partitions that are attached are seen by every session, whatever it was doing meanwhile."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from shard_node import partitions
from shard_node.partitions import PARENTS, create_partitions, make_known
from shard_node.store import Connection
from tests.integration.node_database import prepared
from tests.parts.until import until


async def _changes(connection: Connection) -> list[int]:
    """Which transactions have changed what is known of each parent, last."""
    cursor = await connection.execute(
        "SELECT xmin::text::bigint FROM pg_attribute WHERE attrelid = ANY(%s::regclass[]) AND attname = 'slot'"
        " ORDER BY attrelid",
        [list(PARENTS)],
    )
    return [xmin for (xmin,) in await cursor.fetchall()]


async def _is_known(connection: Connection) -> None:
    before = await _changes(connection)
    await make_known(connection)
    assert all(old < new for old, new in zip(before, await _changes(connection), strict=True))


async def test_whoever_uses_the_tables_is_waited_for(database: str) -> None:
    """It may have read the list of partitions before, and not stored it yet. Whoever comes later sees the new list."""
    async with (
        prepared(database, slots=[1]) as own,
        await psycopg.AsyncConnection.connect(database, options="-csearch_path=likering") as using,
        await psycopg.AsyncConnection.connect(database, options="-csearch_path=likering") as later,
    ):
        await using.execute("SELECT count(*) FROM posts")  # in a transaction that goes on
        making = asyncio.create_task(_is_known(own))
        with psycopg.connect(database, autocommit=True) as looking:

            def waits() -> bool:
                # Its second question names the transaction that it waits for.
                return looking.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%virtualxid = ANY%%'",
                    [own.info.backend_pid],
                ).fetchone() == (1,)

            await until(waits)
        await later.execute("SELECT count(*) FROM posts")
        assert not making.done()
        await using.rollback()
        await making


async def test_one_that_never_ends_is_given_up(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt of a move then begins anew, and says why."""
    monkeypatch.setattr(partitions, "_PATIENCE", 0.05)
    async with (
        prepared(database, slots=[1]) as own,
        await psycopg.AsyncConnection.connect(database, options="-csearch_path=likering") as using,
    ):
        await using.execute("SELECT count(*) FROM edges")
        with pytest.raises(TimeoutError):
            await make_known(own)


async def test_new_slots_are_made_known(database: str) -> None:
    """Not only by moves: the writer and its readers are there when a node takes up slots that nobody had."""
    async with prepared(database, slots=[1]) as own:
        before = await _changes(own)
        await create_partitions(own, [1])  # it is there
        assert await _changes(own) == before
        await create_partitions(own, [1, 2])
        assert all(old < new for old, new in zip(before, await _changes(own), strict=True))
