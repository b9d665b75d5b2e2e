"""Rows, bytes and writes of a node's slots, for the metrics: all of them as sums, and the busiest ones by name.

A cluster has up to 16,384 slots, and three series for each would be more than all other metrics together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from heapq import nlargest
from typing import Never

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from shard_node.database import within
from shard_node.ownership import Ownership
from shard_node.store import Connection, execute

log = structlog.get_logger(__name__)

INTERVAL = 15.0
"""Seconds between two looks at the database's statistics, and at which slots are busy."""
TIMEOUT = 5.0
FADING = 0.8
"""What remains of a slot's busyness after an interval: one that was busy a minute ago still counts by two fifths."""


class SlotFigures:
    """Of one node. ``run`` it as a task."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        ownership: Ownership,
        writes: Mapping[int, int],
        named: int,
    ) -> None:
        """``writes``: by slot, ever growing. ``named``: how many slots are told apart at most."""
        self._pool = pool
        self._ownership = ownership
        self._writes = writes
        self._named = named
        self._seen: dict[int, int] = {}
        self._busy: dict[int, float] = {}
        self.sizes: Mapping[int, tuple[int, int]] = {}
        """Slot → rows and bytes of its tables, by the database's statistics."""
        self.named: Collection[int] = ()
        """The slots that are told apart: those that have had the most writes in the last minute or so."""
        ownership.on_replaced.append(self._choose)

    def __repr__(self) -> str:
        return f"<SlotFigures of {len(self.sizes)} slots>"

    async def run(self) -> Never:
        """Looks again and again."""
        while True:
            self.rank()
            await self._measure()
            await asyncio.sleep(INTERVAL)

    def rank(self) -> None:
        """An interval is over: which slots are the busiest now."""
        owned, writes = self._ownership.epochs, dict(self._writes)
        self._busy = {
            slot: FADING * self._busy.get(slot, 0.0) + writes.get(slot, 0) - self._seen.get(slot, 0)
            for slot in owned
        }
        self._seen = writes
        self._choose()

    def _choose(self) -> None:
        owned = self._ownership.epochs
        self.named = sorted(nlargest(self._named, owned, key=lambda slot: (self._busy.get(slot, 0.0), -slot)))

    async def _measure(self) -> None:
        try:
            self.sizes = await within(TIMEOUT, self._read())
        except (psycopg.Error, PoolTimeout, TooManyRequests, TimeoutError) as error:
            log.info("cannot measure the slots now", error=type(error).__name__)

    async def _read(self) -> dict[int, tuple[int, int]]:
        async with self._pool.connection() as connection:
            cursor = await execute(connection, "slot_sizes")
            return {slot: (int(rows), int(size)) for slot, rows, size in await cursor.fetchall()}
