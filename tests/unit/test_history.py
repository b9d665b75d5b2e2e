"""The checker itself: right histories pass, and each kind of wrong one is caught."""

from __future__ import annotations

import pytest

from tests.parts.history import Record, Stored, contradictions

A, B = ("p", "a"), ("p", "b")
GOOD = [
    Record(A, True, "CHANGED", 1, 1),
    Record(B, True, "CHANGED", 2, 2),
    Record(A, True, "UNCHANGED", 2, 2),
    Record(A, False, "CHANGED", 3, 1),
]
STORED = Stored({B}, {"p": (3, 1)})


def test_a_right_history_passes() -> None:
    """All acknowledged, and all there."""
    assert contradictions(GOOD, STORED) == []


@pytest.mark.parametrize(
    ("liked", "post"), [({B}, (3, 1)), ({A, B}, (4, 2)), (set(), (4, 0))], ids=["neither", "like", "unlike"]
)
def test_a_failed_call_may_have_taken_effect_or_not(
    liked: set[tuple[str, str]], post: tuple[int, int]
) -> None:
    """Three worlds, all possible after a failed like of one edge and a failed unlike of the other."""
    assert contradictions([*GOOD, Record(A, True), Record(B, False)], Stored(liked, {"p": post})) == []


def test_a_repeated_call_may_find_its_own_work_done() -> None:
    """Its change was seen by nobody, and is counted all the same."""
    again = Record(B, False, "UNCHANGED", 4, 0, repeatable=True)
    assert contradictions([*GOOD, again], Stored(set(), {"p": (4, 0)})) == []
    assert contradictions([*GOOD, again], Stored(set(), {"p": (3, 0)}))


@pytest.mark.parametrize(
    ("history", "stored"),
    [
        (GOOD, Stored(set(), {"p": (3, 0)})),
        (GOOD, Stored({A, B}, {"p": (3, 2)})),
        (GOOD, Stored({B}, {"p": (3, 2)})),
        (GOOD, Stored({B}, {"p": (2, 1)})),
        (GOOD, Stored({B}, {"p": (4, 1)})),
        (GOOD, Stored({B}, {})),
        (GOOD, Stored({B, ("q", "c")}, {"p": (3, 1), "q": (1, 1)})),
        ([*GOOD, Record(B, True, "CHANGED", 4, 2)], Stored({B}, {"p": (4, 2)})),
        ([*GOOD, Record(B, False, "UNCHANGED", 3, 1)], STORED),
        ([*GOOD[:3], Record(A, False, "CHANGED", 2, 1)], STORED),
        ([*GOOD[:3], Record(A, False, "CHANGED", 3, 3)], STORED),
    ],
    ids=[
        "a lost like",
        "a lost unlike",
        "a drifted count",
        "a version that went back",
        "a change of nobody's",
        "a lost post",
        "a like of nobody's",
        "a like counted twice",
        "a like that was not seen",
        "a version answered twice",
        "a count that jumps",
    ],
)
def test_a_wrong_history_is_caught(history: list[Record], stored: Stored) -> None:
    """One contradiction each."""
    assert contradictions(history, stored)
