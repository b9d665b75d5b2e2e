"""Sends the likes of an import to the nodes that own their posts, and again what a move or a restart sent back.

Repeating is safe: a node leaves what it has alone. The likes of one post stay in their order: they travel in one
piece, or in pieces one after the other, and once some of a slot have come back, no later ones of it are sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

import grpc
import grpc.aio

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import (
    LikeringError,
    PostBeingPurged,
    RouterOverloaded,
    ShardOverloaded,
    ShardUnavailable,
    SlotMoving,
    UserBeingPurged,
)
from likering.importing import faults
from likering.ring.topology import Topology
from likering.serving.channels import NOT_LET_IN
from likering.serving.status import from_rpc_error
from likering.shard.v1 import shard_admin_service_pb2 as shard
from likering.shard.v1 import shard_service_pb2 as codes
from likering.shard.v1.shard_admin_service_pb2_grpc import ShardAdminServiceStub
from likering.topology.watch import TopologyWatch
from router.admin.nodes import Nodes
from router.patience import MARGIN

if TYPE_CHECKING:
    from likering.shard.v1.shard_admin_service_pb2_grpc import ShardAdminServiceAsyncStub

MAX_PIECE: Final = 2000
"""Likes of one transaction of a node."""
MAX_CALLS: Final = 32
"""Imports at once."""
PIECE_SECONDS: Final = 10.0
"""Patience with a node that is given a piece."""
PAUSE: Final = 0.05
"""Seconds before what came back is sent again."""
_UNAVAILABLE: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    *NOT_LET_IN,
)
_INSERTED, _EXISTING, _REFUSED = (
    api.IMPORT_OUTCOME_INSERTED,
    api.IMPORT_OUTCOME_EXISTING,
    api.IMPORT_OUTCOME_REFUSED,
)


class ImportRun:
    """One ImportLikes: its likes, and what has become of them."""

    def __init__(
        self,
        watch: TopologyWatch,
        nodes: Nodes,
        request_id: str,
        user_ids: Sequence[str],
        post_ids: Sequence[str],
        like_times: Sequence[int],
    ) -> None:
        """``like_times`` in µs since 1970, 0 for none; empty for none at all."""
        self._watch = watch
        self._nodes = nodes
        self._request_id = request_id
        self._user_ids = user_ids
        self._post_ids = post_ids
        self._like_times = like_times
        self._outcomes = [_INSERTED] * len(post_ids)
        self._refusals: dict[int, tuple[str, str]] = {}
        self._trouble: LikeringError = ShardUnavailable()
        slot_of = watch.current.slot_of
        self._slots = [slot_of(post_id) for post_id in post_ids]

    def __repr__(self) -> str:
        return f"<ImportRun of {len(self._post_ids)}>"

    async def execute(self, now: int, deadline: float) -> api.ImportLikesResponse:
        """Imports all. ``now`` in µs since 1970; the deadline is on the monotonic clock.

        Raises the LikeringError that kept some of the likes from being sent until then.
        """
        for position, fault in faults(self._user_ids, self._post_ids, self._like_times, now).items():
            self._refuse(position, fault.reason, f"{fault.field}: {fault.description}")
        waiting = [p for p in range(len(self._post_ids)) if p not in self._refusals]
        while waiting:
            waiting = await self._round(waiting, deadline)
            if waiting:
                if monotonic() + PAUSE > deadline - MARGIN:
                    raise self._trouble
                await asyncio.sleep(PAUSE)
        response = api.ImportLikesResponse(outcomes=self._outcomes)
        for position, (reason, message) in sorted(self._refusals.items()):
            response.refusals.add(position=position, reason=reason, message=message)
        return response

    def _refuse(self, position: int, reason: str, message: str) -> None:
        self._outcomes[position] = _REFUSED
        self._refusals[position] = (reason, message)

    async def _round(self, positions: Sequence[int], deadline: float) -> list[int]:
        """Sends all once. Returns what has to be sent again."""
        topology = self._watch.current
        of_node: dict[str | None, list[int]] = {}
        owners = topology.owners
        for position in positions:
            of_node.setdefault(owners[self._slots[position]], []).append(position)
        left = of_node.pop(None, [])
        if left:
            self._trouble = ShardUnavailable("Some slots have no owner yet")
        for back in await asyncio.gather(
            *(self._to_node(topology, str(node), mine, deadline) for node, mine in of_node.items())
        ):
            left += back
        return sorted(left)

    async def _to_node(
        self, topology: Topology, node: str, positions: Sequence[int], deadline: float
    ) -> list[int]:
        channel = self._nodes.channel(topology.nodes[node].address)
        stub = cast("ShardAdminServiceAsyncStub", ShardAdminServiceStub(channel))
        back: list[int] = []
        stopped: set[int] = set()
        for start in range(0, len(positions), MAX_PIECE):
            piece = [p for p in positions[start : start + MAX_PIECE] if self._slots[p] not in stopped]
            held = [p for p in positions[start : start + MAX_PIECE] if self._slots[p] in stopped]
            back += held
            if not piece:
                continue
            returned = await self._send(topology, stub, node, piece, deadline)
            back += returned
            stopped.update(self._slots[p] for p in returned)
        return back

    async def _send(
        self,
        topology: Topology,
        stub: ShardAdminServiceAsyncStub,
        node: str,
        piece: Sequence[int],
        deadline: float,
    ) -> Sequence[int]:
        """Sends one piece and notes what became of it. Returns what has to be sent again."""
        request = shard.ImportLikesRequest(
            cluster_id=topology.cluster_id,
            request_id=self._request_id,
            post_ids=[self._post_ids[p] for p in piece],
            user_ids=[self._user_ids[p] for p in piece],
            epochs=[topology.epochs[self._slots[p]] for p in piece],
            like_times=[self._like_times[p] for p in piece] if self._like_times else (),
        )
        patience = max(MARGIN, min(deadline - MARGIN - monotonic(), PIECE_SECONDS))
        try:
            answer = await stub.ImportLikes(request, timeout=patience)
        except grpc.aio.AioRpcError as failure:
            error = from_rpc_error(failure)
            if isinstance(error, ShardOverloaded):
                self._trouble = error
                return piece
            if failure.code() not in _UNAVAILABLE and error.code not in _UNAVAILABLE:
                raise error from failure
            self._trouble = ShardUnavailable(f"Node {node} does not answer")
            return piece
        for position in answer.existing:
            self._outcomes[piece[position]] = _EXISTING
        back: list[int] = []
        for position, code in zip(piece, answer.codes, strict=False):
            match code:
                case codes.OP_CODE_UNSPECIFIED:
                    pass
                case codes.OP_CODE_POST_BEING_PURGED:
                    self._refuse(position, PostBeingPurged.reason, PostBeingPurged().message)
                case codes.OP_CODE_USER_BEING_PURGED:
                    self._refuse(position, UserBeingPurged.reason, UserBeingPurged().message)
                case _:
                    back.append(position)
        if back:
            self._trouble = SlotMoving()
            if answer.topology_version > topology.version:
                self._watch.refresh_soon()
        return back


class Imports:
    """Of one router."""

    def __init__(self, watch: TopologyWatch, nodes: Nodes) -> None:
        self._watch = watch
        self._nodes = nodes
        self._running = 0

    def __repr__(self) -> str:
        return f"<Imports, {self._running} running>"

    async def execute(
        self, request: api.ImportLikesRequest, request_id: str, now: int, deadline: float
    ) -> api.ImportLikesResponse:
        """As ``ImportRun.execute``. Raises RouterOverloaded when too many are under way."""
        if self._running >= MAX_CALLS:
            raise RouterOverloaded(retry_after=0.25)
        self._running += 1
        try:
            run = ImportRun(
                self._watch,
                self._nodes,
                request_id,
                list(request.user_ids),
                list(request.post_ids),
                list(request.like_times),
            )
            return await run.execute(now, deadline)
        finally:
            self._running -= 1
