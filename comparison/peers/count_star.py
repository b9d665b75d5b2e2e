"""Peer: one table of likes in one Postgres, counted with count(*)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comparison.peers.service import serving
from comparison.peers.transactions import TransactionLikes, open_pool
from comparison.serving import Register, main

SCHEMA = """
CREATE TABLE likes (
    post_id    text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (post_id, user_id)
)
"""

_INSERT = "INSERT INTO likes (post_id, user_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_COUNT = "SELECT count(*) FROM likes WHERE post_id = %s"


class CountStarLikes(TransactionLikes):
    """An INSERT per like, and the count that the answer has."""

    async def like(self, user_id: str, post_id: str) -> tuple[bool, int]:
        """Stores a like: whether that changed anything, and the post's count then."""
        async with self.pool.connection() as connection:
            inserted = await connection.execute(_INSERT, (post_id, user_id))
            row = await (await connection.execute(_COUNT, (post_id,))).fetchone()
            assert row is not None
            return bool(inserted.rowcount), int(row[0])

    async def count(self, post_id: str) -> int:
        """The post's count."""
        async with self.pool.connection() as connection:
            row = await (await connection.execute(_COUNT, (post_id,))).fetchone()
            assert row is not None
            return int(row[0])


@asynccontextmanager
async def _open(dsn: str) -> AsyncIterator[Register]:
    async with serving(CountStarLikes(await open_pool(dsn))) as register:
        yield register


if __name__ == "__main__":
    main(_open)
