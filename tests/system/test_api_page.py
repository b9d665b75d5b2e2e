"""docs/api.md and docs/operators-api.md tell of every call, and each example of them is executed."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from likering import LikeTracker
from likering.admin.v1 import like_admin_service_pb2, ring_service_pb2
from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2
from tests.parts.api_page import Example, ask, comments, descriptions, examples, shape

FOR_CALLERS = [like_service_pb2.DESCRIPTOR.services_by_name["LikeService"]]
FOR_OPERATORS = [
    like_admin_service_pb2.DESCRIPTOR.services_by_name["LikeAdminService"],
    ring_service_pb2.DESCRIPTOR.services_by_name["RingService"],
]
EVENTUAL = frozenset(("ListLikedPosts", "ListMoves", "WatchMoves", "ListHotPosts", "CheckTopology"))
"""Calls whose answer follows what was done before after some moments."""
PATIENCE = 20.0
PLAN = "the plan above"


def test_every_call_has_an_example() -> None:
    """Once, in the order of the service; operators' calls in the order in which they make sense."""
    assert told("api.md") == calls(FOR_CALLERS)
    assert sorted(told("operators-api.md")) == sorted(calls(FOR_OPERATORS))


def test_what_a_call_does_is_told_in_the_words_of_its_proto() -> None:
    assert descriptions("api.md") == comments("v1/like_service.proto")
    operators = comments("admin/v1/like_admin_service.proto", "admin/v1/ring_service.proto")
    assert descriptions("operators-api.md") == operators


def told(page: str) -> list[tuple[str, str]]:
    return [(example.service, example.method) for example in examples(page)]


def calls(services: list[ServiceDescriptor]) -> list[tuple[str, str]]:
    return [(service.full_name, method.name) for service in services for method in service.methods]


def test_the_page_for_callers_is_true(cluster: EmbeddedCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        check(channel, FOR_CALLERS, examples("api.md"))


def test_the_page_for_operators_is_true(tmp_path: Path) -> None:
    with (
        EmbeddedCluster(tmp_path, nodes=2, slots=4) as cluster,
        LikeTracker(cluster.address) as likes,
        grpc.insecure_channel(cluster.admin_address) as channel,
    ):
        likes.like("cyd", "sunset")
        check(channel, FOR_OPERATORS, examples("operators-api.md"))


def check(channel: grpc.Channel, services: list[ServiceDescriptor], page: list[Example]) -> None:
    """In the order of the page, since each example builds on those before."""
    methods = {(service.full_name, method.name): method for service in services for method in service.methods}
    plan: Any = None
    for example in page:
        request = {"plan": plan} if example.request == {"plan": PLAN} else example.request
        until = monotonic() + (PATIENCE if example.method in EVENTUAL else 0)
        while True:
            answer = ask(channel, methods[example.service, example.method], request)
            if shape(answer) == shape(example.answer) or monotonic() >= until:
                break
        assert shape(answer) == shape(example.answer), example.method
        plan = answer.get("plan", plan)
