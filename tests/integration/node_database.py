"""Databases of a node: an empty one, ready to be written to, and the migrations of earlier versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import psycopg

from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from shard_node import store
from shard_node.commit import WriteUnit
from shard_node.database import conninfo
from shard_node.identity import establish
from shard_node.partitions import create_partitions
from shard_node.store import Connection, Fence

SLOTS = 8
EPOCH = 1
MIGRATIONS = files("shard_node").joinpath("schema")
NOW = 1_700_000_000_000_000
"""µs since 1970, later than no clock of today: revisions of a test begin here."""


@asynccontextmanager
async def prepared(dsn: str, slots: Sequence[int] = range(SLOTS)) -> AsyncIterator[Connection]:
    """Makes the schema with these slots owned, at generation 1 and slots_seq 1, and gives a connection to it."""
    async with await psycopg.AsyncConnection.connect(conninfo(dsn, "test"), autocommit=True) as connection:
        cluster = "00000000-0000-0000-0000-000000000001"
        await establish(connection, "a", Topology(cluster, 1, SLOTS, {}, (None,) * SLOTS, (0,) * SLOTS))
        await create_partitions(connection, slots)
        await store.execute(connection, "raise_generation")
        async with connection.transaction():
            await store.add_slots(connection, dict.fromkeys(slots, EPOCH))
            await store.raise_slots_seq(connection, Fence(1, 0))
        yield connection


def unit(operations: list[tuple[bool, str, str, int]]) -> WriteUnit:
    """A unit of (like, post, user, intent)."""
    return WriteUnit(
        [like for like, _, _, _ in operations],
        [post for _, post, _, _ in operations],
        [user for _, _, user, _ in operations],
        [slot_of(post, SLOTS) for _, post, _, _ in operations],
        [EPOCH] * len(operations),
        [intent for _, _, _, intent in operations],
    )


def migrations_before(number: str, directory: Path) -> Path:
    """Puts the migrations that come before this one (``"0011"``) into the directory."""
    for file in MIGRATIONS.iterdir():
        if file.name < number:
            (directory / file.name).write_bytes(file.read_bytes())
    return directory
