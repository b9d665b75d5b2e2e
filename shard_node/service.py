"""likering.shard.v1.ShardService: takes a batch apart, hands the parts on, puts the answers together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from likering.errors import IdNotPrintable, MessageMalformed, TopologyUnavailable, WrongCluster
from likering.ring.topology import Topology
from likering.serving.handlers import Call
from likering.serving.logging import request_id_of_call
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_UNAVAILABLE,
    OP_KIND_LIKE,
    OP_KIND_UNLIKE,
    OP_OUTCOME_UNSPECIFIED,
    DescribeSourceRequest,
    DescribeSourceResponse,
    ExecuteRequest,
    ExecuteResponse,
    FreezeSlotRequest,
    FreezeSlotResponse,
    GetInventoryRequest,
    GetInventoryResponse,
    GetLoadRequest,
    GetLoadResponse,
    GetTopologyRequest,
    GetTopologyResponse,
    ListLikersRequest,
    ListLikersResponse,
    SlowWritesRequest,
    SlowWritesResponse,
    StopReadsRequest,
    StopReadsResponse,
    UnfreezeSlotRequest,
    UnfreezeSlotResponse,
)
from shard_node.commit import WriteUnit
from shard_node.handoff.handoffs import Handoffs
from shard_node.load import Load
from shard_node.ownership import Ownership
from shard_node.reads import Reader, ReadUnit
from shard_node.sessions import Sessions
from shard_node.store import Place
from shard_node.writer import Writer

WRITES = frozenset((OP_KIND_LIKE, OP_KIND_UNLIKE))


class ShardService:
    """The servicer. Methods are called by ``likering.serving.handlers``, which turns errors into statuses."""

    def __init__(
        self,
        cluster_id: str,
        ownership: Ownership,
        writer: Writer,
        reader: Reader,
        load: Load,
        topology: Callable[[], Topology | None],
        handoffs: Handoffs,
    ) -> None:
        self._cluster_id = cluster_id
        self._ownership = ownership
        self._writer = writer
        self._reader = reader
        self._load = load
        self._topology = topology
        self._handoffs = handoffs
        self._sessions = Sessions()

    async def Execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Executes a batch: its writes as one unit of a group commit, its reads at the same time."""
        self._check_cluster(request.cluster_id)
        _log_as(request.request_id, call)
        self._load.called()
        topology = self._topology()
        response = ExecuteResponse(topology_version=topology.version if topology else 0)
        post_ids = list(request.post_ids)
        if not self._sessions.accepts(request.session_id, request.batch_number, request.lowest_batch_number):
            size = len(post_ids)
            response.codes.extend([OP_CODE_UNAVAILABLE] * size)
            response.outcomes.extend([OP_OUTCOME_UNSPECIFIED] * size)
            response.counts.extend([0] * size)
            response.versions.extend([0] * size)
        else:
            _check_columns(request)
            kinds = list(request.kinds)
            distinct = set(kinds)
            if distinct <= WRITES:
                await self._write(request, kinds, post_ids, response)
            elif distinct.isdisjoint(WRITES):
                await self._read(request, kinds, post_ids, response)
            else:
                raise MessageMalformed("a batch is of writes or of reads, not of both")
        response.as_of_time = time.time_ns() // 1000
        return response

    async def ListLikers(self, request: ListLikersRequest, call: Call) -> ListLikersResponse:
        """One page of who likes a post."""
        self._check_cluster(request.cluster_id)
        _log_as(request.request_id, call)
        self._load.called()
        if request.limit < 1 or "\0" in request.post_id:
            raise MessageMalformed("a list has a limit above 0, and a post id no NUL")
        self._load.hot_reads.add((request.post_id,))
        code, post, likes = await self._reader.likers(
            request.post_id, request.epoch, Place(request.before_time, request.before), request.limit
        )
        topology = self._topology()
        response = ListLikersResponse(
            code=code,
            topology_version=topology.version if topology else 0,
            as_of_time=time.time_ns() // 1000,
            version=post.version,
            count=post.like_count,
        )
        response.user_ids.extend([user_id for user_id, _ in likes])
        response.like_times.extend([place.like_time for _, place in likes])
        response.revs.extend([place.rev for _, place in likes])
        return response

    async def GetTopology(self, request: GetTopologyRequest, call: Call) -> GetTopologyResponse:
        """The topology that this node acts on."""
        if request.cluster_id:
            self._check_cluster(request.cluster_id)
        topology = self._topology()
        if topology is None:
            raise TopologyUnavailable
        return GetTopologyResponse(topology=topology.to_json())

    async def DescribeSource(self, request: DescribeSourceRequest, call: Call) -> DescribeSourceResponse:
        """Where other nodes get this node's slots."""
        self._check_cluster(request.cluster_id)
        return await self._handoffs.describe()

    async def FreezeSlot(self, request: FreezeSlotRequest, call: Call) -> FreezeSlotResponse:
        """Ends the writes to a slot."""
        self._check_cluster(request.cluster_id)
        return await self._handoffs.freeze(request)

    async def UnfreezeSlot(self, request: UnfreezeSlotRequest, call: Call) -> UnfreezeSlotResponse:
        """Looks whether a frozen slot may go on."""
        self._check_cluster(request.cluster_id)
        self._handoffs.look_soon()
        return UnfreezeSlotResponse()

    async def StopReads(self, request: StopReadsRequest, call: Call) -> StopReadsResponse:
        """Ends the reads of a frozen slot."""
        self._check_cluster(request.cluster_id)
        self._handoffs.stop_reads(request)
        return StopReadsResponse()

    async def SlowWrites(self, request: SlowWritesRequest, call: Call) -> SlowWritesResponse:
        """Writes less for a while."""
        self._check_cluster(request.cluster_id)
        self._writer.slow_down(request.rest, request.duration_ms / 1000)
        return SlowWritesResponse()

    async def GetInventory(self, request: GetInventoryRequest, call: Call) -> GetInventoryResponse:
        """What the database holds of slots and moves."""
        self._check_cluster(request.cluster_id)
        return await self._handoffs.inventory()

    async def GetLoad(self, request: GetLoadRequest, call: Call) -> GetLoadResponse:
        """How much this node does."""
        self._check_cluster(request.cluster_id)
        return GetLoadResponse(
            rows=await self._handoffs.rows(),
            writes_per_second=self._load.writes_per_second,
            write_p99=self._load.percentile(0.99),
        )

    def _check_cluster(self, cluster_id: str) -> None:
        if cluster_id != self._cluster_id:
            raise WrongCluster

    async def _write(
        self, request: ExecuteRequest, kinds: list[Any], post_ids: list[str], response: ExecuteResponse
    ) -> None:
        unit = WriteUnit(
            [kind == OP_KIND_LIKE for kind in kinds],
            post_ids,
            list(request.user_ids),
            self._ownership.slots_of(post_ids),
            list(request.epochs),
            list(request.intent_times),
        )
        await self._writer.submit(unit)
        response.codes.extend(unit.codes)
        response.outcomes.extend(unit.outcomes)
        response.counts.extend(unit.counts)
        response.versions.extend(unit.versions)

    async def _read(
        self, request: ExecuteRequest, kinds: list[Any], post_ids: list[str], response: ExecuteResponse
    ) -> None:
        unit = ReadUnit(
            kinds,
            post_ids,
            list(request.user_ids),
            self._ownership.slots_of(post_ids),
            list(request.epochs),
            list(request.min_versions),
        )
        self._load.hot_reads.add(post_ids)
        await self._reader.answer(unit, request.read_mode)
        if any(unit.codes):
            response.codes.extend(unit.codes)
        response.outcomes.extend(unit.outcomes)
        response.counts.extend(unit.counts)
        response.versions.extend(unit.versions)
        response.like_times.extend(unit.like_times)
        response.sources.extend(unit.sources)


def _log_as(request_id: str, call: Call) -> None:
    """Has the log lines of this call carry the request id that the router's caller knows."""
    if request_id:
        call.request_id = request_id
        request_id_of_call.set(request_id)


def _check_columns(request: ExecuteRequest) -> None:
    """Refuses a batch that no router sends, before it can harm the others of its group commit."""
    size = len(request.post_ids)
    needed = (request.kinds, request.user_ids, request.epochs)
    optional = (request.intent_times, request.min_versions)
    if any(len(column) != size for column in needed) or any(
        len(column) not in (0, size) for column in optional
    ):
        raise MessageMalformed("the columns of the batch differ in length")
    if "\0" in "".join(request.post_ids) or "\0" in "".join(request.user_ids):
        raise IdNotPrintable
