"""Batches of operations as nodes and replicas take and answer them: what each must be like, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Mapping

from likering.errors import IdNotPrintable, MessageMalformed
from likering.serving.handlers import Call
from likering.serving.logging import request_id_of_call
from likering.serving.trail import Trail
from likering.shard.v1.shard_service_pb2 import OP_KIND_LIKE, OP_KIND_UNLIKE, ExecuteRequest, ExecuteResponse
from shard_node.reads import ReadUnit

WRITES = frozenset((OP_KIND_LIKE, OP_KIND_UNLIKE))


def log_as(request_id: str, call: Call) -> None:
    """Has the log lines of this call carry the request id that the router's caller knows."""
    if request_id:
        call.request_id = request_id
        request_id_of_call.set(request_id)


def check_columns(request: ExecuteRequest) -> None:
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


def tell_times(response: ExecuteResponse, trail: Trail, parts: Mapping[str, float]) -> None:
    """Tells the router, and this node's own line of a slow call, where the time went: seconds by part."""
    trail.parts = parts
    response.queue_us = round(parts.get("node_queue", 0.0) * 1e6)
    response.execute_us = round((parts.get("commit", 0.0) + parts.get("reads", 0.0)) * 1e6)
    response.cache_us = round(parts.get("cache", 0.0) * 1e6)
    response.node_us = round((time.monotonic() - trail.started) * 1e6)


def tell_reads(response: ExecuteResponse, unit: ReadUnit) -> None:
    """Tells the answers, column by column."""
    if any(unit.codes):
        response.codes.extend(unit.codes)
    response.outcomes.extend(unit.outcomes)
    response.counts.extend(unit.counts)
    response.versions.extend(unit.versions)
    response.like_times.extend(unit.like_times)
    response.sources.extend(unit.sources)
