"""ShardService refuses what no router sends before it reaches the group commit."""

from __future__ import annotations

from typing import cast

import pytest

from likering.errors import IdNotPrintable, MessageMalformed, WrongCluster
from likering.serving.handlers import Call, Context
from likering.serving.trail import Trail
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_UNAVAILABLE,
    OP_KIND_COUNT,
    OP_KIND_LIKE,
    ApplyUserLikesRequest,
    ExecuteRequest,
    OpCode,
    StreamChangesRequest,
)
from router.fragments import Answer
from shard_node.feed import Feed
from shard_node.handoff.handoffs import Handoffs
from shard_node.load import Load
from shard_node.ownership import Ownership
from shard_node.reads import Reader
from shard_node.service import ShardService
from shard_node.user_chunks import LATEST_REV
from shard_node.user_likes import UserLikes
from shard_node.user_store import ToldEdge
from shard_node.watches import Watches
from shard_node.writer import Writer

CALL = Call("request", 0.0, cast("Context", None), Trail(0.0))


def service(user_likes: UserLikes | None = None) -> ShardService:
    """One that fails as soon as anything gets through to the writer or the reader, or to an absent users' side."""
    nothing = cast("object", None)
    return ShardService(
        "c",
        Ownership(8),
        cast(Writer, nothing),
        cast(Reader, nothing),
        Load(),
        lambda: None,
        cast(Handoffs, nothing),
        Watches(Ownership(8)),
        cast(Feed, nothing),
        user_likes or cast(UserLikes, nothing),
    )


def request(**changes: object) -> ExecuteRequest:
    """A batch of two likes, with changes."""
    columns: dict[str, object] = {
        "cluster_id": "c",
        "kinds": [OP_KIND_LIKE] * 2,
        "post_ids": ["p", "q"],
        "user_ids": ["u", "u"],
        "epochs": [1, 1],
    }
    return ExecuteRequest(**{**columns, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cluster_id": "other"}, WrongCluster),
        ({"kinds": [OP_KIND_LIKE]}, MessageMalformed),
        ({"user_ids": ["u"]}, MessageMalformed),
        ({"epochs": [1]}, MessageMalformed),
        ({"intent_times": [1]}, MessageMalformed),
        ({"min_versions": [1, 2, 3]}, MessageMalformed),
        ({"kinds": [OP_KIND_LIKE, OP_KIND_COUNT]}, MessageMalformed),
        ({"post_ids": ["p", "q\0"]}, IdNotPrintable),
        ({"user_ids": ["\0", "u"]}, IdNotPrintable),
    ],
)
async def test_a_malformed_batch_is_refused_as_a_whole(
    changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await service().Execute(request(**changes), CALL)


async def test_a_batch_that_was_given_up_is_answered_as_not_executed() -> None:
    """In the form that a router understands: it may send the operations again."""
    given_up = request(session_id="s", batch_number=1, lowest_batch_number=2)
    answer = Answer(await service().Execute(given_up, CALL), 2)
    assert answer.codes == [OP_CODE_UNAVAILABLE] * 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cluster_id": "other"}, WrongCluster),
        ({"epochs": [1]}, MessageMalformed),
        ({"positions": [0, 0, 0]}, MessageMalformed),
        ({"slots": [1, 1]}, MessageMalformed),
        ({"slots": [0, -1]}, MessageMalformed),
        ({"slots": [0, 1 << 20]}, MessageMalformed),
        ({"positions": [0, -2]}, MessageMalformed),
        ({"max_batch": 0}, MessageMalformed),
    ],
)
async def test_a_malformed_stream_is_refused(changes: dict[str, object], error: type[Exception]) -> None:
    columns: dict[str, object] = {
        "cluster_id": "c",
        "slots": [0, 1],
        "epochs": [1, 1],
        "positions": [0, -1],
        "max_batch": 10,
    }
    with pytest.raises(error):
        await anext(service().StreamChanges(StreamChangesRequest(**{**columns, **changes}), CALL))  # type: ignore[arg-type]


class Taken:
    """A users' side that takes all it is told."""

    def __init__(self) -> None:
        self.rows: list[ToldEdge] = []

    async def apply(self, rows: list[ToldEdge], epochs: list[int]) -> list[OpCode.ValueType]:
        self.rows += rows
        return []


def told(**changes: object) -> ApplyUserLikesRequest:
    """Two edges of a user, with changes."""
    columns: dict[str, object] = {
        "cluster_id": "c",
        "user_ids": ["u", "u"],
        "post_ids": ["p", "q"],
        "revs": [5, 6],
        "liked": [True, False],
        "epochs": [1, 1],
        "like_times": [3, 6],
        "first": [True, False],
    }
    return ApplyUserLikesRequest(**{**columns, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cluster_id": "other"}, WrongCluster),
        ({"post_ids": ["p"]}, MessageMalformed),
        ({"like_times": [3]}, MessageMalformed),
        ({"first": [True]}, MessageMalformed),
        ({"user_ids": ["u", "\0"]}, IdNotPrintable),
        ({"user_ids": ["u", ""]}, MessageMalformed),
        ({"post_ids": ["p", "x" * 129]}, MessageMalformed),
        ({"revs": [5, LATEST_REV + 1]}, MessageMalformed),
        ({"revs": [-1, 6]}, MessageMalformed),
        ({"like_times": [3, -1]}, MessageMalformed),
    ],
)
async def test_edges_that_no_owner_tells_are_refused_as_a_whole(
    changes: dict[str, object], error: type[Exception]
) -> None:
    """What has no room in a chunk, too."""
    with pytest.raises(error):
        await service().ApplyUserLikes(told(**changes), CALL)


async def test_nodes_of_before_do_not_say_which_likes_are_first() -> None:
    """Then none is taken for one."""
    for first in ([True, False], []):
        taken = Taken()
        await service(cast(UserLikes, taken)).ApplyUserLikes(told(first=first), CALL)
        assert taken.rows == [
            ToldEdge("u", "p", 5, True, 3, bool(first)),
            ToldEdge("u", "q", 6, False, 6, False),
        ]
