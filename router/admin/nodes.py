"""Asks all nodes of a topology the same thing at once, and does without those that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import grpc.aio
import structlog
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from likering.ring.topology import Topology
from likering.serving.channels import Channels, KeptChannels
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub

_log = structlog.get_logger(__name__)

LOAD_SECONDS: Final = 0.8
"""Patience with a node that is asked each second."""
INVENTORY_SECONDS: Final = 5.0
"""Patience with a node that has to ask its database about every slot."""
ANSWER_SECONDS: Final = 2.0
"""Patience with a node that is said to be lost. A connection that broke is tried again each second."""

T = TypeVar("T")


class Nodes:
    """Calls to the nodes of one cluster, over connections that are kept."""

    def __init__(self, channels: Channels | None = None) -> None:
        self._channels = KeptChannels(channels or Channels())

    def __repr__(self) -> str:
        return f"<Nodes, {len(self._channels)} connections>"

    async def inventories(
        self, topology: Topology, names: Iterable[str] | None = None
    ) -> dict[str, shard.GetInventoryResponse | None]:
        """By name what each node's database holds, of all nodes or of those named; None: it did not answer."""
        request = shard.GetInventoryRequest(cluster_id=topology.cluster_id)
        return await self._ask(
            topology,
            names,
            "inventory",
            lambda stub: stub.GetInventory(request, timeout=INVENTORY_SECONDS),
        )

    async def loads(self, topology: Topology) -> dict[str, shard.GetLoadResponse | None]:
        """By name how much each node does; None: it did not answer."""
        request = shard.GetLoadRequest(cluster_id=topology.cluster_id)
        return await self._ask(
            topology, None, "load", lambda stub: stub.GetLoad(request, timeout=LOAD_SECONDS)
        )

    async def answers(self, address: str) -> bool:
        """Whether a process is there, be it one that cannot reach its database."""
        stub: Any = HealthStub(self.channel(address))
        try:
            await stub.Check(HealthCheckRequest(), timeout=ANSWER_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return error.code() not in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        return True

    def channel(self, address: str) -> grpc.aio.Channel:
        """The connection to an address."""
        # Those of addresses that nodes have left stay: they are few, and a call may be using one.
        return self._channels.to(address, address)

    async def close(self) -> None:
        """Ends the connections."""
        await self._channels.close()

    async def _ask(
        self,
        topology: Topology,
        names: Iterable[str] | None,
        what: str,
        call: Callable[[ShardServiceAsyncStub], Awaitable[T]],
    ) -> dict[str, T | None]:
        asked = sorted(topology.nodes if names is None else names)
        answers = await asyncio.gather(
            *(self._answer(name, topology.nodes[name].address, what, call) for name in asked)
        )
        return dict(zip(asked, answers, strict=True))

    async def _answer(
        self, name: str, address: str, what: str, call: Callable[[ShardServiceAsyncStub], Awaitable[T]]
    ) -> T | None:
        try:
            return await call(cast("ShardServiceAsyncStub", ShardServiceStub(self.channel(address))))
        except grpc.aio.AioRpcError as error:
            _log.debug("no answer", node=name, asked_for=what, code=error.code().name, why=error.details())
            return None
