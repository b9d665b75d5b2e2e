"""A topology store that asks the nodes while the topology database is away: for a router that starts meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import grpc.aio
import structlog

from likering.errors import TopologyUnavailable
from likering.ring.topology import NodeState, Topology
from likering.serving.channels import Channels
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from likering.topology.store import NodeRegistration, TopologyChange, TopologyStore

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub

_log = structlog.get_logger(__name__)

_ASK_SECONDS = 1.0


class SeededStore:
    """A TopologyStore over another one. ``seeds``: host:port of nodes, asked only until a first topology is known."""

    def __init__(self, store: TopologyStore, seeds: Sequence[str], channels: Channels | None = None) -> None:
        self._store = store
        self._seeds = seeds
        self._channels = channels or Channels()
        self._known = False

    def __repr__(self) -> str:
        return f"SeededStore({self._store!r}, seeds={self._seeds!r})"

    async def get(self, known: Topology | None = None) -> Topology:
        """See TopologyStore."""
        try:
            topology = await self._store.get(known)
        except TopologyUnavailable:
            if self._known:
                raise
            newest = await self._newest_of_seeds()
            if newest is None:
                raise
            _log.warning("topology from a node: its database does not answer", version=newest.version)
            topology = newest
        self._known = True
        return topology

    async def register(self, registration: NodeRegistration) -> Topology:
        """See TopologyStore."""
        return await self._store.register(registration)

    async def assign(self, expected_version: int, owners: Mapping[int, str]) -> Topology:
        """See TopologyStore."""
        return await self._store.assign(expected_version, owners)

    async def set_node(
        self, name: str, *, weight: int | None = None, state: NodeState | None = None
    ) -> Topology:
        """See TopologyStore."""
        return await self._store.set_node(name, weight=weight, state=state)

    async def remove_node(self, name: str) -> Topology:
        """See TopologyStore."""
        return await self._store.remove_node(name)

    async def register_replica(self, cluster_id: str, node: str, address: str) -> Topology:
        """See TopologyStore."""
        return await self._store.register_replica(cluster_id, node, address)

    async def remove_replica(self, address: str) -> Topology:
        """See TopologyStore."""
        return await self._store.remove_replica(address)

    def changes(self) -> AsyncGenerator[TopologyChange, None]:
        """See TopologyStore."""
        return self._store.changes()

    async def close(self) -> None:
        """See TopologyStore."""
        await self._store.close()

    async def _newest_of_seeds(self) -> Topology | None:
        answers = await asyncio.gather(*(_ask(seed, self._channels) for seed in self._seeds))
        return max((answer for answer in answers if answer), key=lambda answer: answer.version, default=None)


async def _ask(seed: str, channels: Channels) -> Topology | None:
    async with channels.open(seed) as channel:
        stub = cast("ShardServiceAsyncStub", ShardServiceStub(channel))
        try:
            response = await stub.GetTopology(shard.GetTopologyRequest(), timeout=_ASK_SECONDS)
            return Topology.from_json(response.topology)
        except (grpc.aio.AioRpcError, ValueError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning("seed does not know the topology", seed=seed, reason=reason)
            return None
