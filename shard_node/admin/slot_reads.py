"""Reads of one slot as its owner's, beside those for callers: one at a time, and with more patience.

For operators, and for what a node does by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.shard.v1.shard_service_pb2 import OP_CODE_UNAVAILABLE
from shard_node.database import within
from shard_node.leadership import Leadership
from shard_node.maintenance import SlotRefused
from shard_node.ownership import Ownership
from shard_node.store import Connection

log = structlog.get_logger(__name__)

READ_TIMEOUT = 25.0
"""Seconds after which the database gives a statement up: counting the likes of one post may take that long."""
_ANSWER: Final = 2.0
"""Seconds more in which it is to say so."""

T = TypeVar("T")


class SlotReads:
    """Takes one connection of the pool at most: the others stay for callers."""

    def __init__(
        self, pool: AsyncConnectionPool[Connection], ownership: Ownership, leadership: Leadership
    ) -> None:
        self._pool = pool
        self._ownership = ownership
        self._leadership = leadership
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SlotReads {self._ownership!r}>"

    async def read(self, slot: int, epoch: int, read: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """What ``read`` answers, while this node owned the slot at that epoch. Raises SlotRefused."""
        async with self._turn:
            self._check(slot, epoch)
            try:
                answer = await within(READ_TIMEOUT + _ANSWER, self._with_connection(read))
            except (psycopg.OperationalError, PoolTimeout, TooManyRequests, TimeoutError) as error:
                log.warning("could not read of a slot", error=type(error).__name__)
                raise SlotRefused(OP_CODE_UNAVAILABLE) from error
            # A slot that has left meanwhile may have been read without its rows.
            self._check(slot, epoch)
            return answer

    def _check(self, slot: int, epoch: int) -> None:
        for code in self._ownership.refused_reads([slot], [epoch]).values():
            raise SlotRefused(code)
        if not self._leadership.leased:
            raise SlotRefused(OP_CODE_UNAVAILABLE)

    async def _with_connection(self, read: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        async with self._pool.connection() as connection, connection.transaction():
            # What nobody waits for any more is not to go on in there, and keep its connection and its snapshot.
            await connection.execute(f"SET LOCAL statement_timeout = {READ_TIMEOUT * 1000:.0f}".encode())
            return await read(connection)
