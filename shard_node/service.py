"""likering.shard.v1.ShardService: takes a batch apart, hands the parts on, puts the answers together."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from likering.cursors import FROM_NOW
from likering.errors import IdNotPrintable, MessageMalformed, TopologyUnavailable, WrongCluster
from likering.ring.hashing import MAX_SLOT_COUNT
from likering.ring.topology import Topology
from likering.serving.handlers import Call
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_NOT_OWNER,
    OP_CODE_UNAVAILABLE,
    OP_KIND_COUNT,
    OP_KIND_LIKE,
    OP_OUTCOME_UNSPECIFIED,
    READ_MODE_CACHED,
    ApplyUserLikesRequest,
    ApplyUserLikesResponse,
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
    ListLikedPostsRequest,
    ListLikedPostsResponse,
    ListLikersRequest,
    ListLikersResponse,
    SlowWritesRequest,
    SlowWritesResponse,
    StopReadsRequest,
    StopReadsResponse,
    StreamChangesRequest,
    StreamChangesResponse,
    UnfreezeSlotRequest,
    UnfreezeSlotResponse,
    UpdateWatchRequest,
    UpdateWatchResponse,
    WatchCountsRequest,
    WatchCountsResponse,
)
from likering.validation import valid_id, valid_ids
from shard_node.batches import WRITES, check_columns, log_as, tell_reads, tell_times
from shard_node.commit import WriteUnit
from shard_node.feed import Feed
from shard_node.handoff.handoffs import Handoffs
from shard_node.load import Load
from shard_node.ownership import Ownership
from shard_node.reads import Reader, ReadUnit
from shard_node.sessions import Sessions
from shard_node.store import Place
from shard_node.user_chunks import LATEST_REV
from shard_node.user_likes import MOST_TOLD, UserLikes
from shard_node.user_store import ToldEdge
from shard_node.watches import Watches
from shard_node.writer import Writer


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
        watches: Watches,
        feed: Feed,
        user_likes: UserLikes,
    ) -> None:
        self._cluster_id = cluster_id
        self._ownership = ownership
        self._writer = writer
        self._reader = reader
        self._load = load
        self._topology = topology
        self._handoffs = handoffs
        self._watches = watches
        self._feed = feed
        self._user_likes = user_likes
        self._sessions = Sessions()

    async def Execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Executes a batch: its writes as one unit of a group commit, its reads at the same time."""
        self._check_cluster(request.cluster_id)
        log_as(request.request_id, call)
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
            check_columns(request)
            kinds = list(request.kinds)
            distinct = set(kinds)
            if distinct <= WRITES:
                await self._write(request, kinds, post_ids, response, call)
            elif distinct.isdisjoint(WRITES):
                await self._read(request, kinds, post_ids, response, call)
            else:
                raise MessageMalformed("a batch is of writes or of reads, not of both")
        response.as_of_time = response.as_of_time or time.time_ns() // 1000
        return response

    async def ListLikers(self, request: ListLikersRequest, call: Call) -> ListLikersResponse:
        """One page of who likes a post."""
        self._check_cluster(request.cluster_id)
        log_as(request.request_id, call)
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
            watched_posts=self._watches.watched_posts,
        )

    async def WatchCounts(
        self, request: WatchCountsRequest, call: Call
    ) -> AsyncGenerator[WatchCountsResponse, None]:
        """The changes of posts, for one router worker."""
        self._check_cluster(request.cluster_id)
        with self._watches.stream(request.watch_id) as stream:
            yield WatchCountsResponse()
            while (updates := await stream.next()) is not None:
                response = WatchCountsResponse(as_of_time=time.time_ns() // 1000)
                for post_id, count in updates.counts.items():
                    response.post_ids.append(post_id)
                    response.counts.append(count.like_count)
                    response.versions.append(count.version)
                for post_id, epoch in updates.gone:
                    response.gone_post_ids.append(post_id)
                    response.gone_epochs.append(epoch)
                yield response

    async def UpdateWatch(self, request: UpdateWatchRequest, call: Call) -> UpdateWatchResponse:
        """Which posts one router worker watches, and what the new ones have come to."""
        self._check_cluster(request.cluster_id)
        self._load.called()
        post_ids, epochs = list(request.post_ids), list(request.epochs)
        if len(post_ids) != len(epochs) or "\0" in "".join(post_ids):
            raise MessageMalformed("each watched post has an epoch, and no NUL")
        topology = self._topology()
        response = UpdateWatchResponse(topology_version=topology.version if topology else 0)
        stream = self._watches.find(request.watch_id)
        if stream is None:
            return response
        self._watches.remove(stream, request.removed_post_ids)
        size = len(post_ids)
        unit = ReadUnit(
            [OP_KIND_COUNT] * size, post_ids, [""] * size, self._ownership.slots_of(post_ids), epochs, ()
        )
        # First watched, then read: whatever is committed after the read is told.
        self._watches.add(stream, post_ids, unit.slots, epochs)
        await self._reader.answer(unit, READ_MODE_CACHED)
        for position, (post_id, epoch) in enumerate(zip(post_ids, epochs, strict=True)):
            if unit.codes[position]:
                self._watches.remove(stream, (post_id,))
            elif not stream.watches(post_id, epoch):
                unit.codes[position] = OP_CODE_NOT_OWNER  # gone while it was read
        response.open = self._watches.find(request.watch_id) is stream
        response.as_of_time = time.time_ns() // 1000
        if any(unit.codes):
            response.codes.extend(unit.codes)
        response.counts.extend(unit.counts)
        response.versions.extend(unit.versions)
        response.sources.extend(unit.sources)
        return response

    async def StreamChanges(
        self, request: StreamChangesRequest, call: Call
    ) -> AsyncGenerator[StreamChangesResponse, None]:
        """The changes of some slots, for as long as they are this node's and the router wants them."""
        self._check_cluster(request.cluster_id)
        log_as(request.request_id, call)
        slots, epochs, positions = list(request.slots), list(request.epochs), list(request.positions)
        if (
            not len(slots) == len(set(slots)) == len(epochs) == len(positions)
            or not all(0 <= slot < MAX_SLOT_COUNT for slot in slots)
            or not all(position >= FROM_NOW for position in positions)
            or request.max_batch < 1
            or request.began < 0
        ):
            raise MessageMalformed("the columns of the slots do not fit together")
        changes = self._feed.changes(
            dict(zip(slots, epochs, strict=True)),
            dict(zip(slots, positions, strict=True)),
            request.max_batch,
            request.began,
        )
        async with aclosing(changes):
            async for response in changes:
                topology = self._topology()
                response.topology_version = topology.version if topology else 0
                yield response

    async def ApplyUserLikes(self, request: ApplyUserLikesRequest, call: Call) -> ApplyUserLikesResponse:
        """What owners of posts tell of the edges of this node's users."""
        self._check_cluster(request.cluster_id)
        user_ids, post_ids = list(request.user_ids), list(request.post_ids)
        size = len(user_ids)
        columns = (
            post_ids,
            request.revs,
            request.liked,
            request.epochs,
            request.like_times,
            request.first or user_ids,
        )
        if size > MOST_TOLD or any(len(column) != size for column in columns):
            raise MessageMalformed("the columns of the edges differ in length, or are too long")
        if "\0" in "".join(user_ids) or "\0" in "".join(post_ids):
            raise IdNotPrintable
        if not (
            valid_ids(user_ids)
            and valid_ids(post_ids)
            and min((*request.revs, *request.like_times), default=0) >= 0
            and max(request.revs, default=0) <= LATEST_REV
        ):
            raise MessageMalformed("an edge has an id, a revision or a time that no edge has")
        first = request.first or [False] * size
        rows = list(map(ToldEdge, user_ids, post_ids, request.revs, request.liked, request.like_times, first))
        codes = await self._user_likes.apply(rows, list(request.epochs))
        topology = self._topology()
        return ApplyUserLikesResponse(topology_version=topology.version if topology else 0, codes=codes)

    async def ListLikedPosts(self, request: ListLikedPostsRequest, call: Call) -> ListLikedPostsResponse:
        """One page of what a user likes."""
        self._check_cluster(request.cluster_id)
        log_as(request.request_id, call)
        self._load.called()
        if request.limit < 1 or request.before < 0 or not valid_id(request.user_id):
            raise MessageMalformed("a list is of a user, since 1970, and has a limit above 0")
        code, likes = await self._reader.liked_posts(
            request.user_id, request.epoch, request.before, request.below_post_id, request.limit
        )
        topology = self._topology()
        response = ListLikedPostsResponse(code=code, topology_version=topology.version if topology else 0)
        response.post_ids.extend([post_id for post_id, _ in likes])
        response.like_times.extend([like_time for _, like_time in likes])
        return response

    def _check_cluster(self, cluster_id: str) -> None:
        if cluster_id != self._cluster_id:
            raise WrongCluster

    async def _write(
        self,
        request: ExecuteRequest,
        kinds: list[Any],
        post_ids: list[str],
        response: ExecuteResponse,
        call: Call,
    ) -> None:
        unit = WriteUnit(
            [kind == OP_KIND_LIKE for kind in kinds],
            post_ids,
            list(request.user_ids),
            self._ownership.slots_of(post_ids),
            list(request.epochs),
            list(request.intent_times),
        )
        unit.span = call.trail.span
        await self._writer.submit(unit)
        tell_times(
            response,
            call.trail,
            {
                "node_queue": unit.began - unit.arrived,
                "commit": unit.committed - unit.began,
                "cache": time.monotonic() - unit.committed,
            },
        )
        response.codes.extend(unit.codes)
        response.outcomes.extend(unit.outcomes)
        response.counts.extend(unit.counts)
        response.versions.extend(unit.versions)

    async def _read(
        self,
        request: ExecuteRequest,
        kinds: list[Any],
        post_ids: list[str],
        response: ExecuteResponse,
        call: Call,
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
        began = time.monotonic()
        response.as_of_time = await self._reader.answer(unit, request.read_mode)
        tell_times(response, call.trail, {"reads": time.monotonic() - began})
        tell_reads(response, unit)
