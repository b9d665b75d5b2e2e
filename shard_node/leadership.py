"""Which process of a node may write: the lead, taken by raising the generation, proved by every commit.

Two things tell a waiting process that the lead is free. The leader's session holds an advisory lock, which is gone at
once when the leader dies. A leader that is stopped keeps its lock, so its beats are watched too: when they stand still
for longer than any lease, its session is ended. Neither is what keeps two leaders apart: the generation in the fence
is (a lock alone is none: it outlives a silent network, and a commit may surface after its session was ended).

A leader answers reads only while it holds a *lease*: for ``LEASE`` seconds after the begin of its last proof. A
waiting process takes over only after a longer silence, so a process that was stopped and goes on finds its lease over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import structlog
from psycopg.pq import TransactionStatus

from shard_node.database import conninfo
from shard_node.standby import StandbyWatch
from shard_node.store import Connection, Fence, execute

log = structlog.get_logger(__name__)

LEASE = 2.0
"""Seconds after the begin of a proof during which reads may be answered."""
PATIENCE = 3.0
"""Seconds without any sign of the leader after which a waiting process takes over. More than LEASE."""
POLL_INTERVAL = 0.1
"""Seconds between two looks of a waiting process."""
LOCK_KEY = 0x6C696B6572696E67  # "likering"


class LeadershipLost(Exception):
    """Another process of this node has taken over."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the taker found: its own generation, and the highest revision issued by anyone before."""

    generation: int
    last_rev: int


class Leadership:
    """This process's lead over one node's database, and the connection that it writes through."""

    def __init__(
        self,
        dsn: str,
        node_name: str,
        on_taken: Callable[[int], None],
        *,
        patience: float = PATIENCE,
        standby: StandbyWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_taken`` is called with the generation, each time the lead is taken. ``patience`` in seconds.

        ``standby`` is told to look before the lead is taken, which is a commit and may wait for a standby.
        """
        self._patience = patience
        self._standby = standby
        self._conninfo = conninfo(dsn, f"likering-writer-{node_name}")
        self._on_taken = on_taken
        self._clock = clock
        self._connection: Connection | None = None
        self._fence: Fence | None = None
        self._leased_until = 0.0
        self._proved = 0.0

    def __repr__(self) -> str:
        state = "leads" if self._connection else "does not lead"
        return f"<Leadership {state}, {self._fence}>"

    @property
    def connection(self) -> Connection:
        """The writer's connection, in autocommit mode."""
        assert self._connection is not None
        return self._connection

    @property
    def fence(self) -> Fence:
        """What the next transaction must name."""
        assert self._fence is not None
        return self._fence

    @property
    def leased(self) -> bool:
        """Whether reads may be answered as the owner's."""
        return self._clock() < self._leased_until

    @property
    def proof_age(self) -> float:
        """Seconds since the begin of the last proof."""
        return self._clock() - (self._leased_until - LEASE)

    @property
    def proved_at(self) -> int:
        """When the last proof began, in µs since 1970: up to then nobody else has written, whoever has the lead now."""
        return time.time_ns() // 1000 - round((self._clock() - self._proved) * 1e6)

    def proved(self, began: float) -> None:
        """A transaction behind the fence, begun at this time of the clock, has committed."""
        self._proved = max(self._proved, began)
        self._leased_until = max(self._leased_until, began + LEASE)

    def slots_seq_is(self, slots_seq: int) -> None:
        """This process has changed the slots."""
        self._fence = Fence(self.fence.generation, slots_seq)

    async def take(self) -> Taken:
        """Waits until the lead is free and takes it; connects again and again while the database is away.

        Raises LeadershipLost when this process has led before and another one has since.
        """
        delay = 0.05
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
            except psycopg.OperationalError as error:
                log.warning("cannot connect to the node's database", error=type(error).__name__)
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
                continue
            try:
                return await self._take_over(connection)
            except psycopg.Error as error:
                log.warning("could not take the lead", error=type(error).__name__, sqlstate=error.sqlstate)
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
            finally:
                if self._connection is not connection:
                    await connection.close()

    async def reload(self) -> None:
        """Reads the fence again. Raises LeadershipLost when it is of another generation."""
        cursor = await execute(self.connection, "read_writer")
        row = await cursor.fetchone()
        assert row is not None
        if row[0] != self.fence.generation:
            raise LeadershipLost
        self._fence = Fence(row[0], row[1])

    def disconnect(self) -> None:
        """Gives up the connection and the lease. One that is still at work closes when that ends (``within``)."""
        if self._connection is not None:
            if self._connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
                self._connection.pgconn.finish()
            self._connection = None
        self._leased_until = 0.0

    async def _take_over(self, connection: Connection) -> Taken:
        await self._wait_until_free(connection)
        if self._standby is not None:
            await self._standby.look(connection)
        began = self._clock()
        async with connection.transaction():
            # The row's lock waits for whatever the leader before had under way: it commits before us, or never.
            cursor = await execute(connection, "raise_generation")
            row = await cursor.fetchone()
            assert row is not None
            generation, slots_seq, last_rev = row
            if self._fence is not None and generation != self._fence.generation + 1:
                raise LeadershipLost  # rolls back
        self._connection = connection
        self._fence = Fence(generation, slots_seq)
        self.proved(began)
        log.info("took the lead", generation=generation, last_rev=last_rev)
        self._on_taken(generation)
        return Taken(generation, last_rev)

    async def _wait_until_free(self, connection: Connection) -> None:
        seen: tuple[int, ...] | None = None
        seen_at = self._clock()
        while True:
            cursor = await execute(connection, "try_leadership", {"key": LOCK_KEY})
            if await cursor.fetchone() == (True,):
                return
            cursor = await execute(connection, "read_writer")
            row = await cursor.fetchone()
            assert row is not None
            if self._fence is not None and row[0] != self._fence.generation:
                raise LeadershipLost
            if row != seen:
                if seen is None:
                    log.info("waits for the lead", generation=row[0])
                seen, seen_at = row, self._clock()
            elif self._clock() - seen_at > self._patience:
                log.warning("the leader gives no sign of life: ending its session", generation=row[0])
                await execute(connection, "end_leader", {"key": LOCK_KEY})
                seen_at = self._clock()
            await asyncio.sleep(POLL_INTERVAL)
