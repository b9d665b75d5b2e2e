"""Peer: grpc.aio and a psycopg pool, one transaction per like that inserts the like and raises a counter row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from comparison.peers.service import serving
from comparison.serving import Register, main

CONNECTIONS = 16

SCHEMA = """
CREATE TABLE likes (
    post_id    text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (post_id, user_id)
);
CREATE TABLE counts (
    post_id    text COLLATE "C" PRIMARY KEY,
    like_count bigint NOT NULL
) WITH (fillfactor = 80)
"""

_INSERT = "INSERT INTO likes (post_id, user_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_RAISE = """
INSERT INTO counts (post_id, like_count) VALUES (%s, 1)
ON CONFLICT (post_id) DO UPDATE SET like_count = counts.like_count + 1
RETURNING like_count
"""
_COUNT = "SELECT like_count FROM counts WHERE post_id = %s"


class TransactionLikes:
    """A transaction per like."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self.pool = pool

    async def like(self, user_id: str, post_id: str) -> tuple[bool, int]:
        """Stores a like: whether that changed anything, and the post's count then."""
        async with self.pool.connection() as connection, connection.transaction():
            inserted = await connection.execute(_INSERT, (post_id, user_id))
            if not inserted.rowcount:
                return False, await self._count(connection, post_id)
            row = await (await connection.execute(_RAISE, (post_id,))).fetchone()
            assert row is not None
            return True, int(row[0])

    async def count(self, post_id: str) -> int:
        """The post's count."""
        async with self.pool.connection() as connection:
            return await self._count(connection, post_id)

    async def _count(self, connection: AsyncConnection[Any], post_id: str) -> int:
        row = await (await connection.execute(_COUNT, (post_id,))).fetchone()
        return int(row[0]) if row is not None else 0

    async def close(self) -> None:
        """Ends all connections."""
        await self.pool.close()


async def open_pool(dsn: str) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """The pool of a peer: as many connections as two cores can use."""
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, timeout=60, kwargs={"autocommit": True}, open=False
    )
    await pool.open(wait=True)
    return pool


@asynccontextmanager
async def _open(dsn: str) -> AsyncIterator[Register]:
    async with serving(TransactionLikes(await open_pool(dsn))) as register:
        yield register


if __name__ == "__main__":
    main(_open)
