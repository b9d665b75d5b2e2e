"""likering.admin.v1.LikeAdminService: what operators ask of the likes, over the nodes that own them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import time_ns
from typing import Final

import grpc.aio
import structlog

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.errors import EnumUnknown, FieldViolation, InvalidArgument
from likering.importing import import_violations
from likering.ring.topology import Topology
from likering.serving.handlers import Call
from likering.shard.v1 import shard_admin_service_pb2 as shard
from likering.topology.watch import TopologyWatch
from likering.validation import list_violations
from router.admin.likes.counts import CountsRun
from router.admin.likes.exporting import ExportRun
from router.admin.likes.hot import merge
from router.admin.likes.importing import Imports
from router.admin.likes.owners import ANSWER_SECONDS, SlotOwners, SlotUnreachable
from router.admin.likes.user_purge import UserPurge

DEFAULT_HOT_POSTS: Final = 20
MAX_HOT_POSTS: Final = 1000
HOT_SECONDS: Final = 2.0
"""Patience with a node that is asked for its hot posts."""
PURGE_PAUSE: Final = 0.2
"""Seconds before a purge that waits for something is looked at again."""

_audit = structlog.get_logger("likering.audit")


class LikeAdminService:
    """The methods of LikeAdminService, for ``likering.serving.handlers``."""

    def __init__(self, watch: TopologyWatch, owners: SlotOwners, imports: Imports) -> None:
        self._watch = watch
        self._imports = imports
        self._owners = owners

    # Counts

    async def VerifyCounts(
        self, request: api.VerifyCountsRequest, call: Call
    ) -> AsyncGenerator[api.VerifyCountsResponse, None]:
        run = self._counts_run(request.slots, request.rows_per_second, call, repair=False)
        async with aclosing(run.pieces()) as pieces:
            async for found in pieces:
                yield api.VerifyCountsResponse(
                    drifts=found.drifts, unverified=found.unverified, progress=run.progress
                )

    async def RepairCounts(
        self, request: api.RepairCountsRequest, call: Call
    ) -> AsyncGenerator[api.RepairCountsResponse, None]:
        run = self._counts_run(request.slots, request.rows_per_second, call, repair=not request.dry_run)
        try:
            async with aclosing(run.pieces()) as pieces:
                async for found in pieces:
                    yield api.RepairCountsResponse(
                        repairs=found.repairs, unverified=found.unverified, progress=run.progress
                    )
        finally:
            if not request.dry_run:
                _audit.info(
                    "counts repaired",
                    request_id=call.request_id,
                    slots_done=run.progress.slots_done,
                    slots=run.progress.slots_total,
                    drifted=run.progress.drifted,
                    mended=run.mended,
                )

    # Hot posts

    async def ListHotPosts(self, request: api.ListHotPostsRequest, call: Call) -> api.ListHotPostsResponse:
        if not 0 <= request.limit <= MAX_HOT_POSTS:
            raise InvalidArgument(f"limit is 0 to {MAX_HOT_POSTS}, not {request.limit}")
        if request.order not in api.HotPostsOrder.values():
            violation = FieldViolation("order", EnumUnknown.reason, f"{request.order} is not an order")
            raise InvalidArgument.of([violation])
        limit = request.limit or DEFAULT_HOT_POSTS
        order = request.order or api.HOT_POSTS_ORDER_WRITES
        topology = self._watch.current
        asking = shard.ListHotPostsRequest(
            cluster_id=topology.cluster_id,
            limit=limit,
            order=order,  # type: ignore[arg-type]  # the same numbers
        )
        answers = await asyncio.gather(*(self._hot(topology, name, asking) for name in topology.nodes))
        return merge(topology, dict(zip(topology.nodes, answers, strict=True)), limit, order)

    # Imports and exports

    async def ImportLikes(self, request: api.ImportLikesRequest, call: Call) -> api.ImportLikesResponse:
        sizes = len(request.user_ids), len(request.post_ids), len(request.like_times)
        if violations := import_violations(*sizes):
            raise InvalidArgument.of(violations)
        return await self._imports.execute(request, call.request_id, time_ns() // 1000, call.deadline)

    async def ExportLikes(
        self, request: api.ExportLikesRequest, call: Call
    ) -> AsyncGenerator[api.ExportLikesResponse, None]:
        topology = self._watch.current
        slots = _slots(request.slots, topology)
        run = ExportRun(self._owners, topology.cluster_id, call.request_id, slots, request.cursor)
        async with aclosing(run.pages()) as pages:
            async for page in pages:
                yield page

    # Purges

    async def PurgePost(
        self, request: api.PurgePostRequest, call: Call
    ) -> AsyncGenerator[api.PurgePostResponse, None]:
        post_id = request.post_id
        if violations := list_violations("post_id", post_id, 0):
            raise InvalidArgument.of(violations)
        if request.dry_run:
            _, counted = await self._purge(post_id, call, dry_run=True)
            yield api.PurgePostResponse(likes=counted.likes, edges=counted.edges)
            return
        _audit.info("purge asked for", post_id=post_id, request_id=call.request_id)
        began = 0
        while True:
            node, state = await self._purge(post_id, call, began=began)
            began = state.began or began
            if state.done:
                break
            yield api.PurgePostResponse(
                likes=state.likes, edges_erased=state.edges_erased, waits_for=state.waits_for
            )
            if state.waits_for:
                await asyncio.sleep(PURGE_PAUSE)
        receipt = self._receipt(post_id, node, state)
        _audit.info(
            "post purged",
            post_id=post_id,
            request_id=call.request_id,
            node=node,
            slot=receipt.slot,
            edges_erased=receipt.edges_erased,
            version=receipt.version,
        )
        yield api.PurgePostResponse(likes=state.likes, edges_erased=state.edges_erased, receipts=[receipt])

    async def PurgeUser(
        self, request: api.PurgeUserRequest, call: Call
    ) -> AsyncGenerator[api.PurgeUserResponse, None]:
        user_id = request.user_id
        if violations := list_violations("user_id", user_id, 0):
            raise InvalidArgument.of(violations)
        if request.posts_per_second < 0:
            raise InvalidArgument("posts_per_second is not negative")
        run = UserPurge(self._watch, self._owners, call.request_id, user_id, request.posts_per_second)
        if not request.dry_run:
            _audit.info("user purge asked for", user_id=user_id, request_id=call.request_id)
        async with aclosing(run.estimate() if request.dry_run else run.purge()) as responses:
            async for response in responses:
                for receipt in response.receipts:
                    _audit.info(
                        "user purged",
                        user_id=user_id,
                        request_id=call.request_id,
                        node=receipt.node,
                        slots=receipt.slots,
                        edges_erased=receipt.edges_erased,
                        list_rows_erased=receipt.list_rows_erased,
                    )
                yield response

    # What several of them need

    def _counts_run(
        self, slots: Sequence[int], rows_per_second: int, call: Call, *, repair: bool
    ) -> CountsRun:
        topology = self._watch.current
        if rows_per_second < 0:
            raise InvalidArgument("rows_per_second is not negative")
        wanted = _slots(slots, topology)
        return CountsRun(
            self._owners, topology.cluster_id, call.request_id, wanted, rows_per_second, repair=repair
        )

    async def _hot(
        self, topology: Topology, name: str, request: shard.ListHotPostsRequest
    ) -> shard.ListHotPostsResponse | None:
        """None: the node does not answer."""
        try:
            stub = self._owners.stub(topology.nodes[name].address)
            return await stub.ListHotPosts(request, timeout=HOT_SECONDS)
        except grpc.aio.AioRpcError:
            return None

    async def _purge(
        self, post_id: str, call: Call, *, dry_run: bool = False, began: int = 0
    ) -> tuple[str, shard.PurgePostResponse]:
        topology = self._watch.current
        try:
            return await self._owners.ask(
                topology.slot_of(post_id),
                lambda stub, epoch: stub.PurgePost(
                    shard.PurgePostRequest(
                        cluster_id=topology.cluster_id,
                        request_id=call.request_id,
                        post_id=post_id,
                        epoch=epoch,
                        dry_run=dry_run,
                        began=began,
                    ),
                    timeout=ANSWER_SECONDS,
                ),
            )
        except SlotUnreachable as unreachable:
            raise unreachable.error from unreachable

    def _receipt(self, post_id: str, node: str, state: shard.PurgePostResponse) -> api.PurgeReceipt:
        receipt = api.PurgeReceipt(
            node=node,
            slot=self._watch.current.slot_of(post_id),
            post_id=post_id,
            edges_erased=state.edges_erased,
            version=state.version,
        )
        if state.purge_time:
            receipt.purge_time.FromMicroseconds(state.purge_time)
        return receipt


def _slots(wanted: Sequence[int], topology: Topology) -> Sequence[int]:
    """The slots that a request names, or all. Raises InvalidArgument."""
    for place, slot in enumerate(wanted):
        if not 0 <= slot < topology.slot_count:
            description = f"a slot is 0 to {topology.slot_count - 1}, not {slot}"
            raise InvalidArgument.of([FieldViolation(f"slots[{place}]", "SLOT_UNKNOWN", description)])
    return sorted(set(wanted)) or range(topology.slot_count)
