"""Everything that a node has to do with moves, put together: what the service calls, and what runs besides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.errors import ShardUnavailable
from likering.serving.channels import Channels
from likering.shard.v1 import shard_service_pb2 as pb
from likering.topology.moves import MoveLimits, MoveStore, SlotMove
from likering.topology.watch import TopologyWatch
from shard_node.handoff.leftovers import take_inventory
from shard_node.handoff.links import Links
from shard_node.handoff.mover import Mover
from shard_node.handoff.peers import Peers
from shard_node.handoff.source import Source
from shard_node.handoff.target import Target
from shard_node.identity import Identity
from shard_node.ownership import Ownership
from shard_node.row_budget import RowBudget
from shard_node.store import Connection, execute
from shard_node.tallies import MoveTally
from shard_node.user_store import Marks
from shard_node.writer import Writer

_NEEDED = {"wal_level": "logical"}
_AT_LEAST = {
    "max_replication_slots": 4,
    "max_wal_senders": 4,
    "max_logical_replication_workers": 4,
    "max_worker_processes": 8,
}


class Handoffs:
    """The moves of one node, in both directions."""

    def __init__(
        self,
        identity: Identity,
        *,
        dsn: str,
        replication_dsn: str,
        pool: AsyncConnectionPool[Connection],
        ownership: Ownership,
        writer: Writer,
        moves: MoveStore,
        watch: TopologyWatch,
        generation: Callable[[], int],
        marks: Callable[[int], Marks | None],
        channels: Channels,
    ) -> None:
        """``marks``: how far a slot's changes have been told to the users' side."""
        self._replication_dsn = replication_dsn
        self._schema_version = identity.schema_version
        self._pool = pool
        self._ownership = ownership
        self._load = writer.load
        self._watch = watch
        self._node_name = identity.node_name
        self._limits = MoveLimits()
        self.on_limits: list[Callable[[MoveLimits], None]] = []
        """Told what operators have set, whenever that was looked up."""
        self._budget = RowBudget()
        self._peers = Peers(identity.cluster_id, watch, channels)
        self._links = Links(f"likering-move-{identity.node_name}")
        self._source = Source(
            identity.node_name, identity.system_identifier, ownership, writer, pool, moves, generation, marks
        )
        self.tally = MoveTally()
        target = Target(
            name=identity.node_name,
            dsn=dsn,
            schema_version=identity.schema_version,
            ownership=ownership,
            writer=writer,
            moves=moves,
            peers=self._peers,
            links=self._links,
            budget=self._budget,
            clearing=asyncio.Lock(),
            limits=lambda: self._limits,
            generation=generation,
            tally=self.tally,
        )
        self._mover = Mover(
            identity.node_name, self._source, target, moves, pool, writer, self._own_slots, self._limits_are
        )

    def __repr__(self) -> str:
        return f"<Handoffs {self._mover!r}>"

    async def run(self) -> None:
        """Does what the moves ask, for as long as the task lives."""
        try:
            await self._mover.run()
        finally:
            await self._peers.close()
            await self._links.close()

    @property
    def moves(self) -> Sequence[SlotMove]:
        """Those that this node takes part in, as they were a moment ago."""
        return self._mover.seen

    def look_soon(self) -> None:
        """Looks at the moves now."""
        self._mover.look_soon()

    async def freeze(self, request: pb.FreezeSlotRequest) -> pb.FreezeSlotResponse:
        """See Source."""
        with _database_needed():
            return await self._source.freeze(request)

    def stop_reads(self, request: pb.StopReadsRequest) -> None:
        """See Source."""
        self._source.stop_reads(request)

    async def describe(self) -> pb.DescribeSourceResponse:
        """Where the database is, and which of its settings stand in the way."""
        async with _readable(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [[*_NEEDED, *_AT_LEAST]]
            )
            settings = dict(await cursor.fetchall())
        obstacles = [
            f"{name} is {settings[name]}, it must be {value}"
            for name, value in _NEEDED.items()
            if settings[name] != value
        ]
        obstacles += [
            f"{name} is {settings[name]}, it must be {value} at least"
            for name, value in _AT_LEAST.items()
            if int(settings[name]) < value
        ]
        return pb.DescribeSourceResponse(
            replication_dsn=self._replication_dsn,
            schema_version=self._schema_version,
            obstacles=obstacles,
            in_use=self._load.in_use,
        )

    async def inventory(self) -> pb.GetInventoryResponse:
        """What the database holds of slots and moves."""
        async with _readable(self._pool) as connection:
            there = await take_inventory(connection)
            cursor = await execute(connection, "slot_sizes")
            sizes = {slot: (rows, size) for slot, rows, size in await cursor.fetchall()}
            cursor = await execute(connection, "held_slots")
            slots = [
                pb.HeldSlot(
                    slot=slot,
                    epoch=epoch,
                    state=state,
                    rows=sizes.get(slot, (0, 0))[0],
                    bytes=sizes.get(slot, (0, 0))[1],
                )
                for slot, epoch, state, *_ in await cursor.fetchall()
            ]
        return pb.GetInventoryResponse(
            slots=sorted(slots, key=lambda held: held.slot),
            publications=there.publications,
            subscriptions=there.subscriptions,
            replication_slots=there.replication_slots,
            tables=there.tables,
        )

    async def rows(self) -> int:
        """Edges of the owned slots, estimated by the database's statistics."""
        async with _readable(self._pool) as connection:
            cursor = await execute(connection, "count_rows")
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    def _limits_are(self, limits: MoveLimits) -> None:
        self._limits = limits
        self._budget.limit(limits.rows_per_second)
        for listener in self.on_limits:
            listener(limits)

    def _own_slots(self) -> set[int]:
        topology = self._watch.latest
        assigned = topology.slots_of(self._node_name).keys() if topology else ()
        return {*self._ownership.epochs, *assigned}


@asynccontextmanager
async def _readable(pool: AsyncConnectionPool[Connection]) -> AsyncIterator[Connection]:
    with _database_needed():
        async with pool.connection() as connection:
            yield connection


@contextmanager
def _database_needed() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, PoolTimeout, TooManyRequests) as error:
        raise ShardUnavailable("the node cannot reach its database") from error
