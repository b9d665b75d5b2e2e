"""The other nodes of the cluster, as a handoff calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc.aio

from likering.errors import ShardUnavailable
from likering.serving.channels import internal_channel_options
from likering.serving.status import from_rpc_error
from likering.shard.v1 import shard_service_pb2 as pb
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from likering.topology.moves import SlotMove
from likering.topology.watch import TopologyWatch
from shard_node.user_store import ToldEdge

if TYPE_CHECKING:
    from likering.shard.v1.shard_service_pb2_grpc import ShardServiceAsyncStub

CALL_TIMEOUT = 2.0
"""Seconds for a call that waits for a commit."""
APPLY_TIMEOUT = 6.0
"""Seconds for a call that waits for its turn, and for a commit."""
STOP_READS_TIMEOUT = 0.3
"""Seconds for the call that the pause waits for; waiting out the read lease costs no more than a second either."""


class Peers:
    """Channels to other nodes, by name. Every call raises LikeringError."""

    def __init__(self, cluster_id: str, watch: TopologyWatch) -> None:
        self._cluster_id = cluster_id
        self._watch = watch
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}

    async def describe_source(self, name: str) -> pb.DescribeSourceResponse:
        """Where a node's Postgres is, and what stands in the way of taking slots from it."""
        stub = await self._stub(name)
        with _told_by(name):
            return await stub.DescribeSource(
                pb.DescribeSourceRequest(cluster_id=self._cluster_id), timeout=CALL_TIMEOUT
            )

    async def freeze_slot(self, move: SlotMove, *, with_sums: bool) -> pb.FreezeSlotResponse:
        """Has the source end writes and reads of the slot; returns when that has committed."""
        stub = await self._stub(move.source)
        request = pb.FreezeSlotRequest(
            cluster_id=self._cluster_id,
            slot=move.slot,
            epoch=move.epoch,
            move=move.move,
            attempt=move.attempt,
            end_reads=True,
            without_sums=not with_sums,
        )
        with _told_by(move.source):
            return await stub.FreezeSlot(request, timeout=CALL_TIMEOUT)

    async def unfreeze_slot(self, move: SlotMove) -> None:
        """Has the source look whether it may go on."""
        stub = await self._stub(move.source)
        with _told_by(move.source):
            await stub.UnfreezeSlot(
                pb.UnfreezeSlotRequest(cluster_id=self._cluster_id, slot=move.slot), timeout=CALL_TIMEOUT
            )

    async def stop_reads(self, move: SlotMove) -> None:
        """Has the source end the reads of the slot."""
        stub = await self._stub(move.source)
        request = pb.StopReadsRequest(
            cluster_id=self._cluster_id, slot=move.slot, move=move.move, attempt=move.attempt
        )
        with _told_by(move.source):
            await stub.StopReads(request, timeout=STOP_READS_TIMEOUT)

    async def slow_writes(self, name: str, rest: float, seconds: float) -> None:
        """Has a node's writer rest after each commit, ``rest`` times as long as that took, for some seconds."""
        stub = await self._stub(name)
        request = pb.SlowWritesRequest(
            cluster_id=self._cluster_id, rest=rest, duration_ms=round(seconds * 1000)
        )
        with _told_by(name):
            await stub.SlowWrites(request, timeout=CALL_TIMEOUT)

    async def apply_user_likes(
        self, name: str, rows: Sequence[ToldEdge], epochs: Sequence[int]
    ) -> Sequence[pb.OpCode.ValueType]:
        """Tells the owner of users of their edges; a code per row, or none at all."""
        stub = await self._stub(name)
        request = pb.ApplyUserLikesRequest(
            cluster_id=self._cluster_id,
            user_ids=[row.user_id for row in rows],
            post_ids=[row.post_id for row in rows],
            revs=[row.rev for row in rows],
            liked=[row.liked for row in rows],
            like_times=[row.like_time for row in rows],
            first=[row.first for row in rows],
            epochs=epochs,
        )
        with _told_by(name):
            answer = await stub.ApplyUserLikes(request, timeout=APPLY_TIMEOUT)
        known = self._watch.latest
        if known is not None and answer.topology_version > known.version:
            self._watch.refresh_soon()
        return answer.codes

    async def close(self) -> None:
        """Ends all connections."""
        channels, self._channels = self._channels, {}
        for _, channel in channels.values():
            await channel.close()

    async def _stub(self, name: str) -> ShardServiceAsyncStub:
        topology = self._watch.latest
        node = topology.nodes.get(name) if topology else None
        if node is None:
            raise ShardUnavailable(f"node {name} is not in the topology")
        held = self._channels.get(name)
        if held is not None and held[0] != node.address:
            await held[1].close()
            held = None
        if held is None:
            held = (node.address, grpc.aio.insecure_channel(node.address, options=internal_channel_options()))
            self._channels[name] = held
        return cast("ShardServiceAsyncStub", ShardServiceStub(held[1]))


@contextmanager
def _told_by(name: str) -> Iterator[None]:
    """Raises as a LikeringError what became of a call to this node."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        found = from_rpc_error(error)
        found.message = f"node {name}: {found.message}"
        raise found from error
