"""A shard node as a process: what it says when it cannot be part of the cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from likering.dev.postgres import PostgresServer
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from shard_node.database import conninfo
from shard_node.identity import establish
from shard_node.leadership import LOCK_KEY

CONFIGURATION_MISTAKE = 2


@pytest.fixture
async def foreign(postgres_server: PostgresServer, database: str) -> AsyncIterator[tuple[str, str]]:
    """A node database of one cluster, and the topology database of another (DSNs)."""
    names = [f"{psycopg.conninfo.conninfo_to_dict(database)['dbname']}_{part}" for part in ("own", "other")]
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn, autocommit=True) as admin:
        for name in names:
            await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    own, other = (postgres_server.dsn_of(name) for name in names)
    await create_cluster(own, 8)
    await create_cluster(other, 8)
    store = PostgresTopologyStore(own)
    topology = await store.get()
    await store.close()
    async with await psycopg.AsyncConnection.connect(
        conninfo(database, "test"), autocommit=True
    ) as connection:
        await establish(connection, "a", topology)
    yield database, other
    async with await psycopg.AsyncConnection.connect(postgres_server.dsn, autocommit=True) as admin:
        for name in names:
            await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def run(postgres: str, topology: str) -> tuple[int | None, str]:
    """Exit code and output of a node process that is expected to end by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shard_node", "--name", "a", "--listen", "127.0.0.1:0"),
        *("--cache", "redis://127.0.0.1:1/0"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LIKERING_NODE_POSTGRES": postgres, "LIKERING_NODE_TOPOLOGY": topology},
    )
    async with asyncio.timeout(60):
        _, output = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.parametrize("lead", ["free", "taken"])
async def test_a_node_of_another_cluster_is_refused(foreign: tuple[str, str], lead: str) -> None:
    """One sentence, and the lead is not touched; whether somebody else holds it or not."""
    postgres, topology = foreign
    async with await psycopg.AsyncConnection.connect(conninfo(postgres, "test"), autocommit=True) as leader:
        if lead == "taken":
            await leader.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        code, output = await run(postgres, topology)
        assert code == CONFIGURATION_MISTAKE
        assert "belongs to cluster" in output
        assert "Traceback" not in output
        cursor = await leader.execute("SELECT generation FROM writer")
        assert await cursor.fetchone() == (0,)


async def test_a_replica_refuses_a_database_that_takes_writes(foreign: tuple[str, str]) -> None:
    postgres, topology = foreign
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shard_node.replica", "--listen", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LIKERING_REPLICA_POSTGRES": postgres, "LIKERING_REPLICA_TOPOLOGY": topology},
    )
    async with asyncio.timeout(60):
        _, output = await process.communicate()
    assert process.returncode == CONFIGURATION_MISTAKE
    assert (
        output.decode().splitlines()[-1].startswith("likering-replica: this Postgres is no streaming replica")
    )


async def test_a_database_that_is_not_there_is_one_sentence() -> None:
    """With the likely cause, and no traceback."""
    nowhere = "postgresql://127.0.0.1:1/nothing"
    code, output = await run(nowhere, nowhere)
    assert code == CONFIGURATION_MISTAKE
    assert output.splitlines()[-1].startswith("likering-node: cannot use the node's database")
    assert "Traceback" not in output
