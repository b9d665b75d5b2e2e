"""The fold of a batch: each operation answers as if it were alone, and the intents decide which toggle stands."""

from __future__ import annotations

import pytest

from likering.shard.v1.shard_service_pb2 import (
    OP_OUTCOME_CHANGED,
    OP_OUTCOME_SUPERSEDED,
    OP_OUTCOME_UNCHANGED,
)
from shard_node.fold import EdgeState, Operation, fold

CHANGED, UNCHANGED, SUPERSEDED = OP_OUTCOME_CHANGED, OP_OUTCOME_UNCHANGED, OP_OUTCOME_SUPERSEDED
EDGE = ("p", "u")


def ops(*wanted: tuple[bool, int]) -> list[Operation]:
    """(like, intent) of one edge; revisions count up from 101."""
    return [Operation("p", "u", 0, like, intent, 101 + n) for n, (like, intent) in enumerate(wanted)]


def test_like_unlike_like_answers_each() -> None:
    """And the edge remembers its first like."""
    folded = fold(ops((True, 0), (False, 0), (True, 0)), {})
    assert [(a.outcome, a.changes, a.delta) for a in folded.answers] == [
        (CHANGED, 1, 1),
        (CHANGED, 2, 0),
        (CHANGED, 3, 1),
    ]
    assert folded.edges == {EDGE: EdgeState(0, liked=True, rev=103, intent=103, first_rev=101)}


@pytest.mark.parametrize(
    ("state", "operation", "outcome", "after"),
    [
        (None, (False, 0), UNCHANGED, None),
        (None, (False, 50), UNCHANGED, EdgeState(0, liked=False, rev=101, intent=50)),
        (EdgeState(0, True, 7, 60, 7), (False, 50), SUPERSEDED, None),
        (EdgeState(0, True, 7, 60, 7), (False, 60), CHANGED, EdgeState(0, False, 101, 60, 7)),
        (EdgeState(0, True, 7, 60, 7), (True, 60), UNCHANGED, None),
        (EdgeState(0, True, 7, 60, 7), (True, 70), UNCHANGED, EdgeState(0, True, 7, 70, 7)),
        (EdgeState(0, True, 7, 60, 7), (True, 0), UNCHANGED, None),
        (EdgeState(0, False, 7, 900, 5), (True, 0), CHANGED, EdgeState(0, True, 101, 900, 5)),
    ],
    ids=[
        "an unlike of nothing leaves no trace",
        "with an intent it leaves a tombstone",
        "an older intent loses",
        "an equal intent takes effect",
        "a retry changes nothing",
        "a repetition moves the intent",
        "a repetition without intent does not",
        "no intent takes effect in server order, and moves no intent back",
    ],
)
def test_one_operation(
    state: EdgeState | None, operation: tuple[bool, int], outcome: int, after: EdgeState | None
) -> None:
    """What is answered and what is to be written."""
    known = {} if state is None else {EDGE: state}
    before = repr(known)
    folded = fold(ops(operation), known)
    assert folded.answers[0].outcome == outcome
    assert folded.edges == ({} if after is None else {EDGE: after})
    assert repr(known) == before, "what was known must not change"
