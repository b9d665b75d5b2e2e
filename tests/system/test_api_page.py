"""docs/api.md tells of every call, and each example of it is executed."""

from __future__ import annotations

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from likering.admin.v1 import like_admin_service_pb2, ring_service_pb2
from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2 as api
from tests.parts.api_page import Example, examples, listed, says_something, shape, shown

METHODS = api.DESCRIPTOR.services_by_name["LikeService"].methods_by_name
EVENTUAL = frozenset(("ListLikedPosts",))


def test_every_call_has_an_example() -> None:
    """Once, in the order of the service."""
    assert [example.method for example in examples()] == list(METHODS)


def test_every_call_for_operators_is_listed() -> None:
    services = [
        ring_service_pb2.DESCRIPTOR.services_by_name["RingService"],
        like_admin_service_pb2.DESCRIPTOR.services_by_name["LikeAdminService"],
    ]
    assert listed() == {(service.name, method.name) for service in services for method in service.methods}


def test_the_page_is_true(cluster: EmbeddedCluster) -> None:
    """In the order of the page, since each example builds on those before."""
    with grpc.insecure_channel(cluster.address) as channel:
        for example in examples():
            for _ in range(500 if example.method in EVENTUAL else 1):
                answer = ask(channel, example)
                if answer == shape(example.answer):
                    break
            assert answer == shape(example.answer), example.method


def ask(channel: grpc.Channel, example: Example) -> object:
    """The answer's shape."""
    method = METHODS[example.method]
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    request = ParseDict(example.request, request_type())
    if not method.server_streaming:
        call = channel.unary_unary(path, request_type.SerializeToString, response_type.FromString)
        return shape(shown(call(request, timeout=20)))
    stream = channel.unary_stream(path, request_type.SerializeToString, response_type.FromString)(
        request, timeout=20
    )
    try:
        return shape(shown(next(message for message in stream if says_something(method, message))))
    finally:
        stream.cancel()
