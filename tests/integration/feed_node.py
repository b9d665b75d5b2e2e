"""What a node has of its change feed, in this process, over a Postgres of the test's own; and one who reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from likering.ring.hashing import slot_of
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1.like_service_pb2 import LikeEvent
from shard_node.commit import Batch
from shard_node.database import read_pool
from shard_node.feed import Feed
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.store import Connection
from shard_node.writer import Writer
from tests.integration.node_database import EPOCH, SLOTS, prepared, unit
from tests.parts.until import until

BEGINNING = dict.fromkeys(range(SLOTS), 0)
POST = next(f"p{n}" for n in range(1000) if slot_of(f"p{n}", SLOTS) == 3)


class Node:
    """A writer and a feed over one database."""

    def __init__(self, dsn: str) -> None:
        self.generations: list[int] = []
        self.pool = read_pool(dsn, 2)
        self.leadership = Leadership(dsn, "a", self.generations.append)
        self.ownership = Ownership(SLOTS)
        self.writer = Writer(self.leadership, self.ownership, self._publish)
        self.feed = Feed(self.pool, self.ownership, self.leadership, self.writer.reach)

    async def _publish(self, batch: Batch) -> None:
        self.feed.committed(batch.slots)

    async def act(self, *operations: tuple[bool, str, str]) -> None:
        """Likes (True) and unlikes of post and user, in one commit."""
        await self.writer.submit(unit([(like, post, user, 0) for like, post, user in operations]))

    async def state(self, slot: int, state: str) -> None:
        """Freezes a slot, gives it back, or sets it aside."""

        async def change(connection: Connection) -> None:
            await connection.execute(
                "UPDATE slots SET state = %s, move = 1, attempt = 1 WHERE slot = %s", [state, slot]
            )

        await self.writer.change_slots(change)

    def stream(
        self, positions: Mapping[int, int] = BEGINNING, limit: int = 1000, began: int = 0
    ) -> AsyncGenerator[shard.StreamChangesResponse, None]:
        return self.feed.changes(dict.fromkeys(positions, EPOCH), positions, limit, began)


NodeT = TypeVar("NodeT", bound=Node)


@asynccontextmanager
async def feed_node(dsn: str, kind: type[NodeT]) -> AsyncIterator[NodeT]:
    """A started one, of all slots."""
    async with prepared(dsn):
        node = kind(dsn)
        await node.pool.open()
        running = asyncio.create_task(node.writer.run())
        await until(lambda: bool(node.ownership.epochs))
        yield node
        running.cancel()
        await asyncio.wait((running,))
        await node.pool.close()


class Reading:
    """A stream that a test reads on in pieces; and where it stands."""

    def __init__(self, changes: AsyncGenerator[shard.StreamChangesResponse, None]) -> None:
        self._changes = changes
        self.positions: dict[int, int] = {}
        self.gone: list[int] = []

    async def events(self, count: int) -> list[LikeEvent]:
        """The next events, at least so many."""
        found: list[LikeEvent] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                found += (await self.response()).events
        return found

    async def response(self) -> shard.StreamChangesResponse:
        async with asyncio.timeout(20):
            response = await anext(self._changes)
        for slot, position in zip(response.slots, response.positions, strict=True):
            assert position >= self.positions.get(slot, 0)
            self.positions[slot] = position
        for slot, code in zip(response.slots, response.codes, strict=False):
            if code:
                assert code == shard.OP_CODE_NOT_OWNER
                self.gone.append(slot)
        return response


def told(events: Sequence[LikeEvent]) -> list[tuple[str, bool, bool]]:
    return [(event.user_id, event.liked, event.first_like) for event in events]
