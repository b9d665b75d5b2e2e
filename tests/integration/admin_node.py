"""What a node has of writing and of looking after likes, in this process, over a Postgres of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from psycopg_pool import AsyncConnectionPool

from likering.ring.hashing import slot_of
from shard_node.admin.counts import Counts
from shard_node.admin.drift import Drift
from shard_node.admin.purge import Consumed, Purges, nobody_reads
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.user_purge import UserPurges
from shard_node.commit import Batch, WriteUnit
from shard_node.database import read_pool
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.packed_ids import pack
from shard_node.store import Connection, PostCount
from shard_node.writer import Writer
from tests.integration.node_database import SLOTS, prepared, unit
from tests.parts.until import until


class AdminNode:
    """``start`` it as often as the test likes: each time another process, as it were."""

    def __init__(self, dsn: str, pool: AsyncConnectionPool[Connection], connection: Connection) -> None:
        self._dsn = dsn
        self.pool = pool
        self.connection = connection
        """For looking, and for making drift."""
        self.published: dict[str, PostCount] = {}
        self.consumed: Consumed = nobody_reads
        self.registry = CollectorRegistry()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.leadership = Leadership(self._dsn, "a", lambda generation: None, patience=0.6)
        self.ownership = Ownership(SLOTS)
        self.writer = Writer(self.leadership, self.ownership, self._publish)
        reads = SlotReads(self.pool, self.ownership, self.leadership)
        self.registry = CollectorRegistry()
        self.counts = Counts(reads, self.ownership, self.leadership, self.writer, Drift(self.registry))
        self.purges = Purges(reads, self.ownership, self.writer, lambda slot: self.consumed(slot))
        self.user_purges = UserPurges(reads, self.ownership, self.writer, lambda slot: self.consumed(slot))
        self._running = asyncio.create_task(self.writer.run())
        await until(self.writer.led.is_set)

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def _publish(self, batch: Batch) -> None:
        for post_id, post in batch.posts.items():
            if post.version >= self.published.get(post_id, PostCount(0, 0)).version:
                self.published[post_id] = post

    async def write(self, *operations: tuple[bool, str, str]) -> WriteUnit:
        """(like, post, user), as one batch."""
        written = unit([(*operation, 0) for operation in operations])
        await self.writer.submit(written)
        return written

    async def post(self, post_id: str) -> Mapping[str, Any]:
        """Its row, with its edges counted."""
        cursor = await self.connection.execute(
            "SELECT version, like_count, purge_began, purge_erased, purged_rev,"
            " (SELECT count(*) FROM edges WHERE (edges.slot, edges.post_no) = (posts.slot, posts.post_no)),"
            " (SELECT count(*) FROM edges WHERE (edges.slot, edges.post_no) = (posts.slot, posts.post_no) AND liked)"
            " FROM posts WHERE post_id = %s",
            [pack(post_id)],
        )
        row = await cursor.fetchone()
        assert row is not None
        names = ("version", "count", "began", "erased", "ended_at", "edges", "likes")
        return dict(zip(names, row, strict=True))


@asynccontextmanager
async def admin_node(dsn: str) -> AsyncIterator[AdminNode]:
    """A started one, of all slots."""
    async with prepared(dsn) as connection, read_pool(dsn, 2) as pool:
        node = AdminNode(dsn, pool, connection)
        await node.start()
        try:
            yield node
        finally:
            await node.stop()


def posts_in(slot: int, number: int) -> list[str]:
    """So many posts of one slot."""
    found: list[str] = []
    candidate = 0
    while len(found) < number:
        if slot_of(f"p{candidate}", SLOTS) == slot:
            found.append(f"p{candidate}")
        candidate += 1
    return sorted(found)
