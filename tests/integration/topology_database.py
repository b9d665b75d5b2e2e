"""The topology database of the tests of what stands in it."""

from __future__ import annotations

from typing import Any

import psycopg

from likering.topology.postgres import SCHEMA

SLOTS = 8


async def execute(database: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Executes a statement in the topology's schema; the rows, if it gives any."""
    async with await psycopg.AsyncConnection.connect(
        database, autocommit=True, options=f"-csearch_path={SCHEMA}"
    ) as connection:
        cursor = await connection.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []
