"""Whose replica a database is: asked once, before anything is served from it."""

from __future__ import annotations

from importlib.resources import files

import psycopg
from psycopg.errors import UndefinedTable

from likering.postgres.migrations import migrations_in
from shard_node.database import conninfo
from shard_node.identity import Identity
from shard_node.store import Connection, execute


class NoReplica(Exception):
    """The database cannot be served from. The message is for the operator."""


async def identify(dsn: str) -> Identity:
    """The node, and cluster, that the standby's database is a copy of. Raises NoReplica."""
    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo(dsn, "likering-start", of_replica=True), autocommit=True
        ) as connection:
            return await _identify(connection)
    except psycopg.OperationalError as error:
        raise NoReplica(f"cannot use the replica's database: {error}") from error


async def _identify(connection: Connection) -> Identity:
    if await (await execute(connection, "replayed_until")).fetchone() is None:
        raise NoReplica(
            "this Postgres is no streaming replica: it takes writes, so it is a node's own (likering-node)"
        )
    try:
        row = await (await execute(connection, "read_identity")).fetchone()
        version = await (await execute(connection, "schema_version")).fetchone()
    except UndefinedTable:
        row = version = None
    if row is None or version is None:
        raise NoReplica("this database is of no node yet: start the node on its primary first")
    needed = migrations_in(files("shard_node").joinpath("schema"))[-1].version
    if version[0] < needed:
        raise NoReplica(
            f"this database has schema version {version[0]} and this program needs {needed}:"
            " bring the node to the same release first"
        )
    system = await (await execute(connection, "system_identifier")).fetchone()
    assert system is not None
    return Identity(*row, *system, *version)
