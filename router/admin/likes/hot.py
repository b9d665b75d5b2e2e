"""Puts together what the nodes say of their hot posts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.ring.topology import Topology
from likering.shard.v1 import shard_admin_service_pb2 as shard


def merge(
    topology: Topology,
    answers: Mapping[str, shard.ListHotPostsResponse | None],
    limit: int,
    order: api.HotPostsOrder.ValueType,
) -> api.ListHotPostsResponse:
    """The hottest posts of all nodes. A post whose slot has just moved was counted by two: both are of the minute."""
    posts: dict[str, api.HotPost] = {}
    for node in _answered(answers):
        for post_id, writes, reads in zip(node.post_ids, node.writes, node.reads, strict=True):
            post = posts.setdefault(post_id, api.HotPost(post_id=post_id))
            post.writes += writes
            post.reads += reads
            post.writes_missed += node.writes_missed
            post.reads_missed += node.reads_missed
    by_reads = order == api.HOT_POSTS_ORDER_READS
    hottest = sorted(
        posts.values(), key=lambda post: (-(post.reads if by_reads else post.writes), post.post_id)
    )[:limit]
    for post in hottest:
        post.slot = topology.slot_of(post.post_id)
        post.node = topology.owners[post.slot] or ""
    return api.ListHotPostsResponse(
        posts=hottest,
        seconds=max((node.seconds for node in _answered(answers)), default=0.0),
        unreachable=[name for name, answer in sorted(answers.items()) if answer is None],
    )


def _answered(
    answers: Mapping[str, shard.ListHotPostsResponse | None],
) -> Iterable[shard.ListHotPostsResponse]:
    return (answer for answer in answers.values() if answer is not None)
