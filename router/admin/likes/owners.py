"""Asks the node that owns a slot for an operator, and asks again while the slot moves or the node is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

import grpc
import grpc.aio

from likering.errors import InternalError, LikeringError, ShardUnavailable, SlotMoving
from likering.serving.channels import NOT_LET_IN
from likering.serving.status import from_rpc_error
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_admin_service_pb2_grpc import ShardAdminServiceStub
from likering.topology.watch import TopologyWatch
from router.admin.nodes import Nodes

if TYPE_CHECKING:
    from likering.shard.v1.shard_admin_service_pb2_grpc import ShardAdminServiceAsyncStub

PATIENCE: Final = 10.0
"""Seconds for which an owner is looked for: longer than a slot's pause, or a process' start."""
ANSWER_SECONDS: Final = 30.0
"""Seconds that an owner is given for one answer."""
_RECHECK: Final = 0.05
_BROKEN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    *NOT_LET_IN,
)


class Answer(Protocol):
    """What every such answer says besides."""

    @property
    def code(self) -> shard.OpCode.ValueType: ...
    @property
    def topology_version(self) -> int: ...


A = TypeVar("A", bound=Answer)


class SlotUnreachable(Exception):
    """No owner of the slot has answered in time: ``node`` was the last one asked, "" when there was none."""

    def __init__(self, node: str, error: LikeringError) -> None:
        super().__init__(error.message)
        self.node = node
        self.error = error


class SlotOwners:
    """The nodes of a cluster, by the slots that they own now."""

    def __init__(self, watch: TopologyWatch, nodes: Nodes, *, patience: float = PATIENCE) -> None:
        """``patience`` in seconds, from the first question on."""
        self._watch = watch
        self._nodes = nodes
        self._patience = patience

    def __repr__(self) -> str:
        return f"<SlotOwners by {self._watch!r}>"

    async def ask(
        self,
        slot: int,
        ask: Callable[[ShardAdminServiceAsyncStub, int], Awaitable[A]],
        *,
        patience: float | None = None,
    ) -> tuple[str, A]:
        """The owner's name, and what ``ask(stub, epoch)`` answered.

        ``patience``: seconds, if not the usual. Raises SlotUnreachable, or what the node refuses.
        """
        until = monotonic() + (self._patience if patience is None else patience)
        while True:
            topology = self._watch.current
            owner = topology.owners[slot]
            if owner is None:
                raise SlotUnreachable("", ShardUnavailable(f"Nobody owns slot {slot} yet"))
            error: LikeringError
            try:
                answer = await ask(self.stub(topology.nodes[owner].address), topology.epochs[slot])
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure)
                if failure.code() not in _BROKEN and error.code not in _BROKEN:
                    raise error from failure
                error = ShardUnavailable(f"Node {owner} does not answer")
            else:
                match answer.code:
                    case shard.OP_CODE_UNSPECIFIED:
                        return owner, answer
                    case shard.OP_CODE_NOT_OWNER | shard.OP_CODE_MOVING:
                        error = SlotMoving(f"Slot {slot} of node {owner} is moving")
                        if answer.topology_version > topology.version:
                            self._watch.refresh_soon()
                    case shard.OP_CODE_UNAVAILABLE:
                        error = ShardUnavailable(f"Node {owner} cannot reach its database")
                    case _:
                        raise InternalError
            if monotonic() > until:
                raise SlotUnreachable(owner, error)
            await asyncio.sleep(_RECHECK)

    def owner(self, slot: int) -> str | None:
        """The name of the node that owns a slot now; None before the first."""
        return self._watch.current.owners[slot]

    def stub(self, address: str) -> ShardAdminServiceAsyncStub:
        """For the node at an address."""
        return cast("ShardAdminServiceAsyncStub", ShardAdminServiceStub(self._nodes.channel(address)))
