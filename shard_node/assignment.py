"""Takes up the slots that the topology assigns to this node for the first time.

Only a slot at its first epoch may be begun empty: one that had an owner before has likes, and those come by a move. Nor
may one that has left this node, whatever a topology says that has been restored from a backup.
"""

from __future__ import annotations

import asyncio

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from likering.ring.topology import Topology
from likering.topology.watch import TopologyWatch
from shard_node import store
from shard_node.ownership import Ownership, SlotState
from shard_node.partitions import create_partitions
from shard_node.store import Connection
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

FIRST_EPOCH = 1
RETRY_INTERVAL = 0.5


class Assignment:
    """Keeps the owned slots in step with first assignments. ``run`` it as a task."""

    def __init__(
        self,
        node_name: str,
        watch: TopologyWatch,
        pool: AsyncConnectionPool[Connection],
        ownership: Ownership,
        writer: Writer,
    ) -> None:
        self._node_name = node_name
        self._watch = watch
        self._pool = pool
        self._ownership = ownership
        self._writer = writer

    async def run(self) -> None:
        """Takes up what is assigned, for as long as the task lives."""
        await self._writer.led.wait()  # a process that never led does not know what its database owns
        version = -1
        while True:
            topology = await self._watch.newer_than(version)
            try:
                await self._take_up(topology)
            except (psycopg.Error, ConnectionError, TimeoutError) as error:
                log.warning("could not take up slots yet", error=type(error).__name__)
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                version = topology.version

    async def _take_up(self, topology: Topology) -> None:
        assigned, held = topology.slots_of(self._node_name), self._ownership.held
        left = [
            slot
            for slot, epoch in assigned.items()
            if slot in held and held[slot].state is SlotState.MOVED and held[slot].epoch >= epoch
        ]
        if left:
            log.warning(
                "the topology gives this node slots that have left it: has it been restored from a backup?",
                slots=sorted(left),
            )
        missing = {slot: epoch for slot, epoch in assigned.items() if slot not in held}
        new = {slot: epoch for slot, epoch in missing.items() if epoch == FIRST_EPOCH}
        if len(new) < len(missing):
            # Right after a move has committed this is how it should be.
            log.info(
                "slots are said to be ours that are not here yet", slots=sorted(missing.keys() - new.keys())
            )
        if not new:
            return
        async with self._pool.connection() as connection:
            await create_partitions(connection, sorted(new))

        async def add(connection: Connection) -> None:
            await store.add_slots(connection, new)

        await self._writer.change_slots(add)
        log.info("took up slots", count=len(new), topology_version=topology.version)
