"""What callers without our client see: plain stubs, raw bytes, and google.rpc.Status with its details."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from likering.errors import (
    BatchEmpty,
    BatchTooLarge,
    EnumUnknown,
    IdEmpty,
    IdNotPrintable,
    IdTooLong,
    IntentInFuture,
    IntentInvalid,
    InvalidArgument,
    MessageMalformed,
    VersionAhead,
    VersionNegative,
)
from likering.serving.status import from_rpc_error, from_status
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub
from tests.conformance.subjects import fresh

LONG = "x" * 129


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> LikeServiceStub:
    return LikeServiceStub(channel)


def seconds_from_now(seconds: int) -> Timestamp:
    return Timestamp(seconds=int(time.time()) + seconds)


def refused(call: Callable[..., Any], request: Any) -> InvalidArgument:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgument)
    return error


WRONG: list[tuple[str, Any, type[InvalidArgument], list[str]]] = [
    ("Like", pb.LikeRequest(post_id="p"), IdEmpty, ["user_id"]),
    ("Like", pb.LikeRequest(user_id=LONG, post_id="a\0"), IdTooLong, ["user_id", "post_id"]),
    ("Unlike", pb.UnlikeRequest(user_id="u", post_id="a\0"), IdNotPrintable, ["post_id"]),
    (
        "Like",
        pb.LikeRequest(user_id="u", post_id="p", intent_time=Timestamp()),
        IntentInvalid,
        ["intent_time"],
    ),
    (
        "Unlike",
        pb.UnlikeRequest(user_id="u", post_id="p", intent_time=Timestamp(seconds=1, nanos=-1)),
        IntentInvalid,
        ["intent_time"],
    ),
    (
        "Like",
        pb.LikeRequest(user_id="u", post_id="p", intent_time=Timestamp(seconds=2**40)),
        IntentInvalid,
        ["intent_time"],
    ),
    (
        "Like",
        pb.LikeRequest(user_id="u", post_id="p", intent_time=Timestamp(seconds=2**34)),
        IntentInFuture,
        ["intent_time"],
    ),
    ("HasLiked", pb.HasLikedRequest(user_id="u", post_id=""), IdEmpty, ["post_id"]),
    (
        "HasLiked",
        pb.HasLikedRequest(user_id="u", post_id="p", min_version=-1),
        VersionNegative,
        ["min_version"],
    ),
    ("GetLikeCount", pb.GetLikeCountRequest(post_id=LONG), IdTooLong, ["post_id"]),
    ("GetLikeCount", pb.GetLikeCountRequest(post_id="p", consistency=9), EnumUnknown, ["consistency"]),  # type: ignore[arg-type]
    ("MutateLikes", pb.MutateLikesRequest(), BatchEmpty, ["mutations"]),
    (
        "MutateLikes",
        pb.MutateLikesRequest(mutations=[pb.LikeMutation()] * 1001),
        BatchTooLarge,
        ["mutations"],
    ),
    ("GetLikeSummaries", pb.GetLikeSummariesRequest(), BatchEmpty, ["post_ids"]),
    ("GetLikeSummaries", pb.GetLikeSummariesRequest(post_ids=["p"] * 201), BatchTooLarge, ["post_ids"]),
    (
        "GetLikeSummaries",
        pb.GetLikeSummariesRequest(post_ids=["p", "", "p", LONG], viewer_user_id="v\0"),
        IdEmpty,
        ["post_ids[1]", "post_ids[3]", "viewer_user_id"],
    ),
    ("FilterLikers", pb.FilterLikersRequest(post_id="p"), BatchEmpty, ["user_ids"]),
    ("FilterLikers", pb.FilterLikersRequest(post_id="p", user_ids=["u"] * 1001), BatchTooLarge, ["user_ids"]),
    (
        "FilterLikers",
        pb.FilterLikersRequest(post_id="", user_ids=["u", ""]),
        IdEmpty,
        ["post_id", "user_ids[1]"],
    ),
]


@pytest.mark.parametrize(
    ("method", "request_", "error", "fields"),
    WRONG,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_is_refused_with_reason_and_fields(
    stub: LikeServiceStub, method: str, request_: Any, error: type[InvalidArgument], fields: list[str]
) -> None:
    found = refused(getattr(stub, method), request_)
    assert type(found) is error
    assert [violation.field for violation in found.violations] == fields
    assert all(violation.reason and violation.description for violation in found.violations)


def test_wrong_items_of_a_batch_carry_their_own_status(stub: LikeServiceStub) -> None:
    post = fresh("post")
    response = stub.MutateLikes(
        pb.MutateLikesRequest(
            mutations=[
                pb.LikeMutation(user_id="u", post_id=post, action=pb.LikeMutation.ACTION_LIKE),
                pb.LikeMutation(user_id="u", post_id=post),
                pb.LikeMutation(user_id="u", post_id=post, action=77),  # type: ignore[arg-type]
                pb.LikeMutation(user_id=LONG, post_id=post, action=pb.LikeMutation.ACTION_LIKE),
                pb.LikeMutation(
                    user_id="v",
                    post_id=post,
                    action=pb.LikeMutation.ACTION_LIKE,
                    intent_time=seconds_from_now(3600),
                ),
                pb.LikeMutation(user_id="v", post_id=post, action=pb.LikeMutation.ACTION_LIKE),
            ]
        ),
        timeout=10,
    )
    errors = [
        from_status(result.status) if result.HasField("status") else None for result in response.results
    ]
    assert [type(error) for error in errors] == [
        type(None),
        EnumUnknown,
        EnumUnknown,
        IdTooLong,
        IntentInFuture,
        type(None),
    ]
    assert [error.violations[0].field for error in errors if error] == [
        "mutations[1].action",
        "mutations[2].action",
        "mutations[3].user_id",
        "mutations[4].intent_time",
    ]
    assert [(result.outcome, result.like_count.post_id) for result in response.results] == [
        (pb.MUTATION_OUTCOME_CHANGED, post),
        *[(pb.MUTATION_OUTCOME_UNSPECIFIED, "")] * 4,
        (pb.MUTATION_OUTCOME_CHANGED, post),
    ]


def test_without_intent_the_order_of_the_server_counts(stub: LikeServiceStub) -> None:
    post = fresh("post")
    ahead = seconds_from_now(30)
    assert stub.Like(pb.LikeRequest(user_id="u", post_id=post, intent_time=ahead), timeout=10).outcome == 1
    assert stub.Unlike(pb.UnlikeRequest(user_id="u", post_id=post), timeout=10).outcome == 1
    assert stub.Like(pb.LikeRequest(user_id="u", post_id=post), timeout=10).outcome == 1
    late = seconds_from_now(-30)
    answer = stub.Unlike(pb.UnlikeRequest(user_id="u", post_id=post, intent_time=late), timeout=10)
    assert answer.outcome == pb.MUTATION_OUTCOME_SUPERSEDED
    assert (answer.like_count.count, answer.like_count.version) == (1, 3)


def test_a_version_ahead_is_a_failed_precondition(stub: LikeServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetLikeCount(pb.GetLikeCountRequest(post_id=fresh("post"), min_version=1), timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert isinstance(from_rpc_error(caught.value), VersionAhead)


@pytest.mark.parametrize("address", ["cluster"], indirect=True)
@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"\x0a\x02\xc3\x28\x12\x01p", IdNotPrintable),
        (b"\x0a\x01u\x12\x03\xed\xa0\x80", IdNotPrintable),
        (b"\x0a\xff", MessageMalformed),
        (b"not protobuf", MessageMalformed),
    ],
    ids=["bad sequence", "encoded surrogate", "cut off", "text"],
)
def test_bytes_that_are_no_request_are_refused(
    channel: grpc.Channel, raw: bytes, error: type[InvalidArgument]
) -> None:
    like: Callable[..., bytes] = channel.unary_unary("/likering.v1.LikeService/Like")
    assert type(refused(like, raw)) is error
