"""Peer: as ``transactions``, by somebody who has thought about round trips: like and counter row in one statement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comparison.peers.service import serving
from comparison.peers.transactions import TransactionLikes, open_pool
from comparison.serving import Register, main

_LIKE = """
WITH inserted AS (
    INSERT INTO likes (post_id, user_id) VALUES (%(post)s, %(user)s) ON CONFLICT DO NOTHING RETURNING post_id
)
INSERT INTO counts (post_id, like_count) SELECT post_id, 1 FROM inserted
ON CONFLICT (post_id) DO UPDATE SET like_count = counts.like_count + 1
RETURNING like_count
"""


class StatementLikes(TransactionLikes):
    """A statement, and so a transaction, per like."""

    async def like(self, user_id: str, post_id: str) -> tuple[bool, int]:
        """Stores a like: whether that changed anything, and the post's count then."""
        async with self.pool.connection() as connection:
            row = await (await connection.execute(_LIKE, {"post": post_id, "user": user_id})).fetchone()
            if row is None:
                return False, await self._count(connection, post_id)
            return True, int(row[0])


@asynccontextmanager
async def _open(dsn: str) -> AsyncIterator[Register]:
    async with serving(StatementLikes(await open_pool(dsn))) as register:
        yield register


if __name__ == "__main__":
    main(_open)
