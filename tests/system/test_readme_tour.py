"""The tours of README.md: its Python prints what it says, and its commands for any gRPC client work over reflection."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys

import grpc

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2 as api
from tests.parts.pages import ROOT, Page
from tests.parts.reflection import Reflected, grpcurl_commands

README = Page(ROOT / "README.md")


def test_the_tour_works_over_reflection(cluster: EmbeddedCluster) -> None:
    like, summaries, describe = grpcurl_commands(README.path)
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


def test_the_python_prints_what_its_comments_say(cluster: EmbeddedCluster) -> None:
    synchronous, _, _ = README.blocks("python")
    said = re.findall(r"print\(.*\)  # (.*)", synchronous)
    printed = _printed(synchronous, cluster)
    assert len(printed) == len(said)
    for line, comment in zip(printed, said, strict=True):
        assert re.match(rf"{re.escape(line)}(?=[,:]|$)", comment), f"printed {line}, said {comment}"


def test_a_thousand_likes_at_once_are_counted_and_watched(cluster: EmbeddedCluster) -> None:
    _, asynchronous, _ = README.blocks("python")
    assert _printed(asynchronous, cluster) == ["1000", "1000"]


def test_the_events_have_what_was_liked(cluster: EmbeddedCluster) -> None:
    _, _, events = README.blocks("python")
    post = f"p-{secrets.token_hex(4)}"
    with LikeTracker(cluster.address) as likes:
        likes.like("u1", post)
        likes.like("u2", post)
    begun = f'from likering import LikeTracker\nlikes, stored = LikeTracker("{cluster.address}"), ""\n'
    with subprocess.Popen(
        [sys.executable, "-u", "-c", begun + events], stdout=subprocess.PIPE, text=True
    ) as consumer:
        assert consumer.stdout is not None
        try:
            found = (line for line in consumer.stdout if f" {post} " in line)
            assert [next(found), next(found)] == [f"u1 {post} True True 2\n", f"u2 {post} True True 2\n"]
        finally:
            consumer.kill()  # its loop has no end


def _printed(code: str, cluster: EmbeddedCluster) -> list[str]:
    """The lines that code of the page prints, with posts of this test's own."""
    own = f"-{secrets.token_hex(4)}"
    code = re.sub(r'"(p\d)"', rf'"\1{own}"', code.replace("localhost:50051", cluster.address))
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout.splitlines()
