"""Brings operations to the nodes that own their posts' slots.

The first try of a single operation is the hot path and is written for it. Whatever else there is, more operations
than one or a try that went wrong, is an ``Undertaking``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Protocol
from uuid import uuid4

import structlog

from likering.errors import LikeringError, ShardUnavailable, TopologyUnavailable
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.shard.v1.shard_service_pb2 import READ_MODE_STALE_OK
from router.fragments import Fate, Fragment, Row
from router.lane import Lane, LaneLimits, Way
from router.node_client import NodeClient
from router.operations import TRAFFIC, Operations
from router.pace import Pace
from router.patience import MARGIN
from router.replicas import Replicas
from router.tallies import TrafficTally
from router.undertaking import Undertaking

_log = structlog.get_logger(__name__)


class TopologySource(Protocol):
    """Where newer topologies come from: a nudge is all that the dispatch asks of it."""

    def refresh_soon(self) -> None: ...


class Dispatch:
    """The lanes to all nodes, and which of them leads to which slot. Lives on one event loop."""

    def __init__(self, limits: LaneLimits | None = None) -> None:
        self._limits = limits or LaneLimits()
        self._pace = Pace()
        self._loop = asyncio.get_running_loop()
        self._session_id = uuid4().hex
        self._topology: Topology | None = None
        self._nodes: dict[str, NodeClient] = {}
        self._lanes: dict[str, Sequence[Lane]] = {}
        # By kind of traffic, then by slot. Before the first topology: one slot, which leads nowhere.
        self._routes: Sequence[Sequence[Way | None]] = [[None] for _ in TRAFFIC]
        self._slot_count = 1
        self._epochs: Sequence[int] = (0,)
        self.tallies = [TrafficTally() for _ in TRAFFIC]
        """By kind of traffic."""
        self._replicas = Replicas(
            self._session_id, self._limits, self._pace, self._beat, self.tallies[READ_MODE_STALE_OK]
        )
        self._leaving: set[asyncio.Task[None]] = set()
        self.pulse = asyncio.Event()
        """Set at the next change of the topology or of a connection; then there is another one."""
        self.source: TopologySource | None = None
        self.waiting_operations = 0
        """Operations that wait for a change before they are sent again."""

    def __repr__(self) -> str:
        return f"<Dispatch {self._topology!r}, {self.waiting_operations} operations wait>"

    @property
    def topology_version(self) -> int:
        """Version of the topology in use; 0 before the first."""
        return self._topology.version if self._topology else 0

    @property
    def connected(self) -> dict[str, bool]:
        """Whether the connection to a node stands, by its name."""
        return {name: node.connected for name, node in dict(self._nodes).items()}

    @property
    def queued_operations(self) -> int:
        """Operations that wait to be sent."""
        return sum(lane.queued for lanes in dict(self._lanes).values() for lane in lanes)

    def use(self, topology: Topology) -> None:
        """Takes over a topology: connects to its nodes, and routes anew what waits for a slot that has moved."""
        before, self._topology = self._topology, topology
        for name, node in topology.nodes.items():
            client = self._nodes.get(name)
            if client is None:
                client = self._nodes[name] = NodeClient(name, self._session_id, self._connection_changed)
                self._lanes[name] = [
                    Lane(client, kind, topology.cluster_id, self._limits, self._pace, self.tallies[kind])
                    for kind in TRAFFIC
                ]
            client.connect(node.address, node.generation)
        for name in self._nodes.keys() - topology.nodes.keys():
            self._leave(name)
        self._slot_count = topology.slot_count
        self._epochs = topology.epochs
        self._replicas.use(topology)
        ways = {
            name: self._replicas.ways(topology.replicas.get(name, ()), lanes)
            for name, lanes in self._lanes.items()
        }
        self._routes = [
            [ways[owner][kind] if owner else None for owner in topology.owners] for kind in TRAFFIC
        ]
        if before is not None:
            for name in _losers(before, topology) & self._lanes.keys():
                for lane in self._lanes[name]:
                    lane.flush()
        _log.info("topology", version=topology.version, nodes=len(topology.nodes))
        self._beat()

    async def one(
        self,
        traffic: int,
        kind: int,
        post_id: str,
        user_id: str,
        intent_time: int,
        min_version: int,
        deadline: float,
        request_id: str,
    ) -> Row:
        """The result of a single operation. Times in µs; the deadline on the monotonic clock. Raises LikeringError."""
        pulse = self.pulse
        slot = slot_of(post_id, self._slot_count)
        lane = self._routes[traffic][slot]
        operations = (kind,), (post_id,), (user_id,), (intent_time,)
        fragment: Fragment | None = None
        if lane is not None:
            future: asyncio.Future[Fate] = self._loop.create_future()
            fragment = Fragment(
                *operations, (self._epochs[slot],), (min_version,), deadline, request_id, future
            )
            lane.submit(fragment)
            if await future is Fate.ANSWERED:
                answer = fragment.answer
                if answer.codes is None or not answer.codes[fragment.offset]:
                    return answer.rows[fragment.offset]
        rest = Undertaking(
            self, Operations(traffic, *operations, (min_version,), request_id), deadline - MARGIN, pulse
        )
        if fragment is not None:
            rest.collect(fragment, (0,))
            await rest.pause()
        await rest.run()
        row = rest.rows[0]
        if row is None:
            raise rest.errors[0]
        return row

    async def many(
        self, operations: Operations, deadline: float, *, patience: float | None = None
    ) -> tuple[Sequence[Row | None], dict[int, LikeringError]]:
        """A row for each operation, or None there and an error under its position.

        ``patience``: seconds after which what has no result yet is an error, if that is before the deadline.
        Raises RouterOverloaded before anything was sent, unless there is a patience: then that is an error like others.
        """
        until = deadline - MARGIN
        if patience is not None:
            until = min(until, monotonic() + patience)
        undertaking = Undertaking(self, operations, until, self.pulse)
        await undertaking.run(all_or_overloaded=patience is None, timer=patience is not None)
        return undertaking.rows, undertaking.errors

    def split(
        self, operations: Operations, positions: Sequence[int]
    ) -> list[tuple[Way | None, Sequence[int], Sequence[int]]]:
        """Lane, positions and their epochs, for each node that owns some of the operations."""
        count, routes, epochs = self._slot_count, self._routes[operations.traffic], self._epochs
        post_ids = operations.post_ids
        if len(positions) < len(post_ids):
            post_ids = [post_ids[position] for position in positions]
        slots = [slot_of(post_id, count) for post_id in post_ids]
        lanes = [routes[slot] for slot in slots]
        if len(set(lanes)) == 1:
            return [(lanes[0], positions, [epochs[slot] for slot in slots])]
        parts: dict[Way | None, tuple[list[int], list[int]]] = {lane: ([], []) for lane in lanes}
        for position, slot, lane in zip(positions, slots, lanes, strict=True):
            part = parts[lane]
            part[0].append(position)
            part[1].append(epochs[slot])
        return [(lane, positions, epochs) for lane, (positions, epochs) in parts.items()]

    def owner_of(self, post_id: str) -> tuple[NodeClient | None, int]:
        """The node that owns the post's slot, None when nobody does, and the slot's epoch."""
        return self.owner_of_slot(slot_of(post_id, self._slot_count))

    def owner_of_slot(self, slot: int) -> tuple[NodeClient | None, int]:
        """The node that owns the slot, None when nobody does, and the slot's epoch."""
        owner = self._topology.owners[slot] if self._topology else None
        return self._nodes[owner] if owner else None, self._epochs[slot]

    def slot_of(self, post_id: str) -> int:
        """The post's slot by the topology in use."""
        return slot_of(post_id, self._slot_count)

    @property
    def slot_count(self) -> int:
        """Of the topology in use; 1 before the first."""
        return self._slot_count

    @property
    def cluster_id(self) -> str:
        """Of the topology in use; empty before the first."""
        return self._topology.cluster_id if self._topology else ""

    def unrouted(self) -> LikeringError:
        """Why a slot may have no lane."""
        if self._topology is None:
            return TopologyUnavailable()
        return ShardUnavailable("No shard owns the post yet")

    def refresh_soon(self) -> None:
        """Asks for a newer topology."""
        if self.source is not None:
            self.source.refresh_soon()

    async def close(self) -> None:
        """Ends all connections. No call may be in progress."""
        for name in list(self._nodes):
            self._leave(name)
        if self._leaving:
            await asyncio.wait(self._leaving)
        await self._replicas.close()

    def _leave(self, name: str) -> None:
        client = self._nodes.pop(name)
        for lane in self._lanes.pop(name):
            lane.flush()
        task = self._loop.create_task(client.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _connection_changed(self, node: NodeClient, connected: bool) -> None:
        if not connected:
            for lane in self._lanes.get(node.name, ()):
                lane.flush()
        self._beat()

    def _beat(self) -> None:
        self.pulse.set()
        self.pulse = asyncio.Event()


def _losers(before: Topology, after: Topology) -> set[str]:
    """The nodes for which the newer topology has another owner or epoch in some slot."""
    if before.slot_count != after.slot_count:
        return set(before.nodes)
    return {
        owner
        for owner, epoch, new_owner, new_epoch in zip(
            before.owners, before.epochs, after.owners, after.epochs, strict=True
        )
        if owner is not None and (owner, epoch) != (new_owner, new_epoch)
    }
