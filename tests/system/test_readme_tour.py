"""The tour of README.md with any gRPC client: its commands work over what the router tells of itself."""

from __future__ import annotations

from pathlib import Path

import grpc

from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2 as api
from tests.parts.reflection import Reflected, grpcurl_commands

ROOT = Path(__file__).parents[2]


def test_the_tour_works_over_reflection(cluster: EmbeddedCluster) -> None:
    like, summaries, describe = grpcurl_commands(ROOT / "README.md")
    with grpc.insecure_channel(cluster.address) as channel:
        router = Reflected(channel)
        liked = router.call(*like)["like_count"]
        seen = router.call(*summaries)["summaries"]
        assert [summary["like_count"]["post_id"] for summary in seen] == summaries.request["post_ids"]
        (own,) = (summary for summary in seen if summary["like_count"]["post_id"] == like.request["post_id"])
        assert own["viewer_has_liked"]
        assert own["like_count"]["count"] == liked["count"]
        assert describe.target == "likering.v1.LikeService"
        assert router.methods(describe.target) == list(
            api.DESCRIPTOR.services_by_name["LikeService"].methods_by_name
        )
