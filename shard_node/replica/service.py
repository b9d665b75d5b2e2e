"""likering.shard.v1.ShardService, as far as a replica serves it: stale reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from likering.errors import WrongCluster
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.serving.handlers import Call
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_UNAVAILABLE,
    READ_MODE_STALE_OK,
    ExecuteRequest,
    ExecuteResponse,
)
from shard_node.batches import WRITES, check_columns, log_as, tell_reads, tell_times
from shard_node.identity import Identity
from shard_node.reads import ReadUnit
from shard_node.replica.reads import ReplicaReader

METHODS = ("Execute",)
"""All that a replica serves."""


class ReplicaService:
    """The servicer. Methods are called by ``likering.serving.handlers``, which turns errors into statuses."""

    def __init__(
        self, identity: Identity, reader: ReplicaReader, topology: Callable[[], Topology | None]
    ) -> None:
        self._identity = identity
        self._reader = reader
        self._topology = topology

    async def Execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Answers the reads of a batch whose callers take stale answers, and refuses anything else.

        Batches are not numbered here: one that comes late reads, and nobody waits for it.
        """
        if request.cluster_id != self._identity.cluster_id:
            raise WrongCluster
        log_as(request.request_id, call)
        check_columns(request)
        kinds, post_ids = list(request.kinds), list(request.post_ids)
        unit = ReadUnit(
            kinds,
            post_ids,
            list(request.user_ids),
            [slot_of(post_id, self._identity.slot_count) for post_id in post_ids],
            list(request.epochs),
            list(request.min_versions),
        )
        as_of_time, reads = 0, 0.0
        if request.read_mode == READ_MODE_STALE_OK and WRITES.isdisjoint(kinds):
            began = time.monotonic()
            as_of_time = await self._reader.answer(unit)
            reads = time.monotonic() - began
        else:
            unit.refuse(range(len(unit)), OP_CODE_UNAVAILABLE)
        topology = self._topology()
        response = ExecuteResponse(
            topology_version=topology.version if topology else 0,
            as_of_time=as_of_time or time.time_ns() // 1000,
        )
        tell_times(response, call.trail, {"reads": reads})
        tell_reads(response, unit)
        return response
