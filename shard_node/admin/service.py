"""likering.shard.v1.ShardAdminService: what routers ask of a node for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from likering.errors import (
    IdNotPrintable,
    MessageMalformed,
    ShardUnavailable,
    StorageFull,
    WrongCluster,
)
from likering.ring.topology import Topology
from likering.serving.handlers import Call
from likering.serving.logging import request_id_of_call
from likering.shard.v1 import shard_admin_service_pb2 as pb
from likering.shard.v1.shard_service_pb2 import OP_CODE_UNSPECIFIED
from shard_node.admin.counts import MAX_POSTS, Counts
from shard_node.admin.exports import MAX_PAGE, SlotPlace, export
from shard_node.admin.imports import MAX_LIKES, Imports
from shard_node.admin.purge import Purges
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.user_purge import MAX_POSTS as MAX_POSTS_LOOKED_AT
from shard_node.admin.user_purge import Place, UserPurges
from shard_node.load import Load
from shard_node.maintenance import SlotRefused


class ShardAdminService:
    """The servicer, for ``likering.serving.handlers``."""

    def __init__(
        self,
        cluster_id: str,
        counts: Counts,
        purges: Purges,
        user_purges: UserPurges,
        imports: Imports,
        reads: SlotReads,
        load: Load,
        topology: Callable[[], Topology | None],
    ) -> None:
        self._cluster_id = cluster_id
        self._counts = counts
        self._purges = purges
        self._user_purges = user_purges
        self._imports = imports
        self._reads = reads
        self._load = load
        self._topology = topology

    async def VerifyCounts(self, request: pb.VerifyCountsRequest, call: Call) -> pb.VerifyCountsResponse:
        """Compares counts with likes."""
        self._accept(request.cluster_id, request.request_id, call)
        if request.limit < 1 or not request.HasField("after_post_no"):
            raise MessageMalformed("a look at counts has a limit above 0, and a number to begin behind")
        response = pb.VerifyCountsResponse(topology_version=self._topology_version)
        async with _answered(response):
            piece = await self._counts.verify(
                request.slot, request.epoch, request.after_post_no, request.limit
            )
            response.posts, response.likes = piece.posts, piece.likes
            if piece.last is not None:
                response.next_post_no = piece.last
            for one in piece.drifts:
                response.drifts.add(
                    post_id=one.post_id,
                    stored_count=one.stored,
                    counted_likes=one.counted,
                    version=one.version,
                )
        return response

    async def RepairCounts(self, request: pb.RepairCountsRequest, call: Call) -> pb.RepairCountsResponse:
        """Mends counts."""
        self._accept(request.cluster_id, request.request_id, call)
        post_ids = list(request.post_ids)
        if len(post_ids) > MAX_POSTS or "\0" in "".join(post_ids):
            raise MessageMalformed(f"a repair is of at most {MAX_POSTS} posts, and a post id has no NUL")
        response = pb.RepairCountsResponse(topology_version=self._topology_version)
        async with _answered(response):
            mended = await self._counts.repair(request.slot, request.epoch, post_ids)
            response.post_ids.extend(mended)
            response.counts.extend([post.like_count for post in mended.values()])
            response.versions.extend([post.version for post in mended.values()])
        return response

    async def ListHotPosts(self, request: pb.ListHotPostsRequest, call: Call) -> pb.ListHotPostsResponse:
        """The posts that were asked for most often."""
        self._accept(request.cluster_id, "", call)
        writes = self._load.hot_writes.hottest(request.limit)
        reads = self._load.hot_reads.hottest(request.limit)
        by_reads = request.order == pb.HOT_POSTS_ORDER_READS
        posts = [post_id for post_id, _ in (reads if by_reads else writes).posts]
        written, read = self._load.hot_writes.counts(), self._load.hot_reads.counts()
        return pb.ListHotPostsResponse(
            post_ids=posts,
            writes=[written[post_id] for post_id in posts],
            reads=[read[post_id] for post_id in posts],
            writes_missed=writes.missed,
            reads_missed=reads.missed,
            seconds=max(writes.seconds, reads.seconds),
        )

    async def PurgePost(self, request: pb.PurgePostRequest, call: Call) -> pb.PurgePostResponse:
        """Erases a post's edges for some seconds, or counts them."""
        self._accept(request.cluster_id, request.request_id, call)
        if not request.post_id or "\0" in request.post_id:
            raise MessageMalformed("a post id is not empty, and has no NUL")
        response = pb.PurgePostResponse(topology_version=self._topology_version)
        async with _answered(response):
            if request.dry_run:
                response.likes, response.edges = await self._purges.estimate(request.post_id, request.epoch)
                return response
            state = await self._purges.purge(request.post_id, request.epoch, request.began)
            response.began = state.began
            response.likes = state.likes
            response.edges_erased = state.edges_erased
            response.version = state.version
            response.done = state.done
            response.purge_time = state.ended_at
            response.waits_for = state.waits_for
        return response

    async def ImportLikes(self, request: pb.ImportLikesRequest, call: Call) -> pb.ImportLikesResponse:
        """Inserts likes from elsewhere."""
        self._accept(request.cluster_id, request.request_id, call)
        post_ids, user_ids = list(request.post_ids), list(request.user_ids)
        epochs, like_times = list(request.epochs), list(request.like_times)
        size = len(post_ids)
        if not 0 < size <= MAX_LIKES or not (
            size == len(user_ids) == len(epochs) and len(like_times) in (0, size)
        ):
            raise MessageMalformed(f"an import has 1 to {MAX_LIKES} likes, in columns of the same length")
        if "\0" in "".join(post_ids) or "\0" in "".join(user_ids):
            raise IdNotPrintable
        response = pb.ImportLikesResponse(topology_version=self._topology_version)
        async with _answered(response):
            done = await self._imports.insert(post_ids, user_ids, epochs, like_times)
            if done.refused:
                codes = [OP_CODE_UNSPECIFIED] * size
                for position, code in done.refused.items():
                    codes[position] = code
                response.codes.extend(codes)
            response.existing.extend(done.existing)
        return response

    async def ExportLikes(self, request: pb.ExportLikesRequest, call: Call) -> pb.ExportLikesResponse:
        """Likes of a slot."""
        self._accept(request.cluster_id, request.request_id, call)
        after = SlotPlace(request.after.post_no, request.after.like_time, request.after.rev)
        if not 0 < request.limit <= MAX_PAGE or (after.rev and not after.post_no):
            raise MessageMalformed(f"an export has a limit of 1 to {MAX_PAGE}, and a place a post's number")
        response = pb.ExportLikesResponse(topology_version=self._topology_version)
        async with _answered(response):
            likes, last = await export(self._reads, request.slot, request.epoch, after, request.limit)
            response.post_ids.extend([like.post_id for like in likes])
            response.user_ids.extend([like.user_id for like in likes])
            response.like_times.extend([like.like_time for like in likes])
            if last is not None:
                response.next.CopyFrom(pb.LikePlace(**last._asdict()))
        return response

    async def PurgeUser(self, request: pb.PurgeUserRequest, call: Call) -> pb.PurgeUserResponse:
        """One step of erasing a user in one slot."""
        self._accept(request.cluster_id, request.request_id, call)
        if not request.user_id or "\0" in request.user_id or not request.HasField("after_post_no"):
            raise MessageMalformed(
                "a user id is not empty, and has no NUL; a step has a number to begin behind"
            )
        purges = self._user_purges
        work = {
            pb.USER_PURGE_STEP_COUNT: purges.count,
            pb.USER_PURGE_STEP_MARK: purges.mark,
            pb.USER_PURGE_STEP_END_LIKES: purges.end_likes,
            pb.USER_PURGE_STEP_ERASE_EDGES: purges.erase_edges,
            pb.USER_PURGE_STEP_ERASE_LIST: purges.erase_list,
            pb.USER_PURGE_STEP_RELEASE: purges.release,
        }.get(request.step)
        limit = request.limit or 1
        if work is None or not 0 < limit <= MAX_POSTS_LOOKED_AT:
            raise MessageMalformed(f"a step is known, and looks at 1 to {MAX_POSTS_LOOKED_AT} posts")
        response = pb.PurgeUserResponse(topology_version=self._topology_version)
        async with _answered(response):
            done = await work(
                Place(
                    request.slot,
                    request.epoch,
                    request.user_id,
                    request.purge,
                    request.after_post_no,
                    limit,
                )
            )
            response.purge = done.purge
            response.posts, response.likes = done.looked.posts, done.looked.likes
            response.edges = len(done.looked.edges)
            response.edges_erased, response.list_rows = done.edges_erased, done.list_rows
            response.purge_time, response.waits_for = done.purge_time, done.waits_for
            if done.looked.last is not None:
                response.next_post_no = done.looked.last
        return response

    @property
    def _topology_version(self) -> int:
        topology = self._topology()
        return topology.version if topology else 0

    def _accept(self, cluster_id: str, request_id: str, call: Call) -> None:
        if cluster_id != self._cluster_id:
            raise WrongCluster
        if request_id:
            call.request_id = request_id
            request_id_of_call.set(request_id)


@asynccontextmanager
async def _answered(
    response: pb.VerifyCountsResponse
    | pb.RepairCountsResponse
    | pb.PurgePostResponse
    | pb.ImportLikesResponse
    | pb.ExportLikesResponse
    | pb.PurgeUserResponse,
) -> AsyncIterator[None]:
    """Says in the response that the slot is elsewhere; a database that is away is an error."""
    try:
        yield
    except SlotRefused as refusal:
        response.code = refusal.code
    except psycopg.errors.DiskFull as error:
        raise StorageFull from error
    except (psycopg.Error, ConnectionError, TimeoutError) as error:
        raise ShardUnavailable("the node cannot reach its database") from error
