"""What a replica answers, of what it found in its database."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from likering.shard.v1.shard_service_pb2 import (
    COUNT_SOURCE_STALE,
    OP_CODE_MOVING,
    OP_CODE_NOT_OWNER,
    OP_CODE_UNAVAILABLE,
    OP_CODE_UNSPECIFIED,
    OP_KIND_COUNT,
    OP_KIND_HAS_LIKED,
    OP_OUTCOME_LIKED,
    OP_OUTCOME_NOT_LIKED,
    OP_OUTCOME_UNSPECIFIED,
    OpCode,
)
from shard_node.ownership import SlotState
from shard_node.reads import ReadUnit
from shard_node.replica.reads import Look, Slots, fill
from shard_node.store import PostCount

SLOT, EPOCH = 3, 7
OWNED: Slots = {SLOT: (EPOCH, SlotState.OWNER)}
COUNT = PostCount(9, 4)


def unit(*, epoch: int = EPOCH, min_versions: Sequence[int] = ()) -> ReadUnit:
    """Two users' likes of a post, and its count."""
    return ReadUnit(
        [OP_KIND_HAS_LIKED, OP_KIND_COUNT, OP_KIND_HAS_LIKED],
        ["p"] * 3,
        ["u", "", "v"],
        [SLOT] * 3,
        [epoch] * 3,
        min_versions,
    )


def look(before: Slots = OWNED, after: Slots | None = None) -> Look:
    return Look(1, before, {"p": COUNT}, {1: 55}, before if after is None else after)


def test_all_is_stale_and_likes_have_their_times() -> None:
    reads = unit()
    fill(reads, look())
    assert reads.codes == [OP_CODE_UNSPECIFIED] * 3
    assert reads.outcomes == [OP_OUTCOME_NOT_LIKED, OP_OUTCOME_UNSPECIFIED, OP_OUTCOME_LIKED]
    assert reads.like_times == [0, 0, 55]
    assert (reads.counts, reads.versions) == ([0, 4, 0], [0, 9, 0])
    assert reads.sources == [COUNT_SOURCE_STALE] * 3


def test_a_post_that_never_changed_is_at_zero() -> None:
    reads = unit()
    fill(reads, Look(1, OWNED, {}, {}, OWNED))
    assert (reads.counts[1], reads.versions[1], reads.sources[1]) == (0, 0, COUNT_SOURCE_STALE)


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ({}, None, OP_CODE_NOT_OWNER),
        ({SLOT: (EPOCH + 2, SlotState.OWNER)}, None, OP_CODE_NOT_OWNER),
        ({SLOT: (EPOCH - 2, SlotState.OWNER)}, None, OP_CODE_NOT_OWNER),
        ({SLOT: (EPOCH, SlotState.MOVED)}, None, OP_CODE_NOT_OWNER),
        ({SLOT: (EPOCH, SlotState.FROZEN)}, None, OP_CODE_MOVING),
        (OWNED, {}, OP_CODE_NOT_OWNER),
        ({}, OWNED, OP_CODE_NOT_OWNER),
        (OWNED, {SLOT: (EPOCH, SlotState.MOVED)}, OP_CODE_NOT_OWNER),
    ],
)
def test_only_a_slot_that_was_the_nodes_all_the_time_is_answered_for(
    before: Slots, after: Slots | None, code: OpCode.ValueType
) -> None:
    reads = unit()
    fill(reads, look(before, after))
    assert reads.codes == [code] * 3
    assert reads.counts == [0] * 3


def test_a_replica_that_is_behind_does_not_say_that_the_owner_is() -> None:
    reads = unit(min_versions=[COUNT.version, COUNT.version + 1, COUNT.version + 1])
    fill(reads, look())
    assert reads.codes == [OP_CODE_UNSPECIFIED, OP_CODE_UNAVAILABLE, OP_CODE_UNAVAILABLE]
