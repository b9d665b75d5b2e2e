"""The oracle itself: histories of a service that keeps its promises pass, and each broken promise is found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likering.client.model import Outcome
from tests.parts import edge_order
from tests.parts.oracle import contradictions, judged
from tests.parts.placement import Held, Placement, left_behind, misplaced
from tests.parts.records import Change, CountSeen, History, LikeSeen, Stored
from tests.parts.simulation import Simulation

A, B = ("p", "a"), ("p", "b")
CHANGED, UNCHANGED, SUPERSEDED = Outcome.CHANGED, Outcome.UNCHANGED, Outcome.SUPERSEDED
T = 10**15
SECOND = 1_000_000


def like(begin: int, end: int | None, edge: tuple[str, str], *answer: Any, **more: Any) -> Change:
    """``answer``: outcome, version, count. Times in seconds."""
    return _change(begin, end, edge, True, *answer, **more)


def unlike(begin: int, end: int | None, edge: tuple[str, str], *answer: Any, **more: Any) -> Change:
    return _change(begin, end, edge, False, *answer, **more)


def _change(
    begin: int, end: int | None, edge: tuple[str, str], is_like: bool, *answer: Any, **more: Any
) -> Change:
    outcome, version, count = answer or (None, 0, 0)
    intent = T + more.pop("intent") * SECOND if "intent" in more else 0
    times = T + begin * SECOND, None if end is None else T + end * SECOND
    return Change(more.pop("caller", 1), *times, edge, is_like, intent, outcome, version, count, **more)


def saw_count(
    begin: int, end: int, version: int, count: int, *, strong: bool = False, caller: int = 1
) -> CountSeen:
    return CountSeen(caller, T + begin * SECOND, T + end * SECOND, "p", version, count, strong)


def saw_like(begin: int, end: int, edge: tuple[str, str], liked: bool, *, strong: bool = False) -> LikeSeen:
    return LikeSeen(1, T + begin * SECOND, T + end * SECOND, edge, liked, strong)


GOOD: Sequence[Change] = (
    like(0, 2, A, CHANGED, 1, 1),
    like(1, 3, B, CHANGED, 2, 2, intent=1),
    like(4, 5, A, UNCHANGED, 2, 2),
    unlike(6, 8, A, CHANGED, 3, 1, intent=6),
)
STORED = Stored({A: (False, T + 6 * SECOND), B: (True, T + SECOND)}, {"p": (3, 1)})


def judge(
    records: Sequence[Change | CountSeen | LikeSeen], stored: Stored, *, trouble: bool = False
) -> list[str]:
    history = History(
        [one for one in records if isinstance(one, Change)],
        [one for one in records if isinstance(one, LikeSeen)],
        [one for one in records if isinstance(one, CountSeen)],
    )
    return contradictions(history, stored, trouble=trouble)


# What must pass


def test_a_right_history_passes() -> None:
    """All acknowledged, all there, and every read as fresh as it must be."""
    reads: list[CountSeen | LikeSeen] = [
        saw_count(0, 1, 0, 0, strong=True),
        saw_count(4, 5, 2, 2, strong=True),
        saw_count(7, 9, 2, 2),  # the unlike was not acknowledged yet
        saw_like(7, 9, A, False, strong=True),
        saw_like(7, 9, A, True),
    ]
    assert judge([*GOOD, *reads], STORED) == []


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.booleans())
def test_what_a_right_service_answers_passes(seed: int, trouble: bool) -> None:
    """Random interleavings of all kinds of calls, with and without failures."""
    simulation = Simulation(seed, trouble=trouble)
    assert contradictions(simulation.history, simulation.stored, trouble=trouble) == []


@pytest.mark.parametrize(
    ("stored_a", "stored_b", "post"),
    [
        ((False, 6), (True, 1), (3, 1)),
        ((True, 20), (True, 1), (4, 2)),
        ((False, 6), (False, 21), (4, 0)),
        ((True, 20), (False, 21), (5, 1)),
    ],
    ids=["neither", "the like", "the unlike", "both"],
)
def test_a_failed_call_may_have_taken_effect_or_not(
    stored_a: tuple[bool, int], stored_b: tuple[bool, int], post: tuple[int, int]
) -> None:
    """Four worlds, all possible after a failed like of one edge and a failed unlike of the other."""
    records = [*GOOD, like(20, None, A, intent=20), unlike(21, None, B)]
    stored = Stored({A: _stored(*stored_a), B: _stored(*stored_b)}, {"p": post})
    assert judge(records, stored, trouble=True) == []


def test_a_repeated_call_may_find_its_own_work_done() -> None:
    """Its change was seen by nobody, and is counted all the same: but only when calls are repeated at all."""
    again = unlike(20, 21, B, UNCHANGED, 4, 0, intent=20)
    stored = Stored({A: _stored(False, 6), B: _stored(False, 20)}, {"p": (4, 0)})
    assert judge([*GOOD, again], stored, trouble=True) == []
    assert judge([*GOOD, again], stored)


def _stored(liked: bool, intent: int) -> tuple[bool, int]:
    return liked, T + intent * SECOND


# What must be found


@pytest.mark.parametrize(
    ("records", "stored", "message"),
    [
        pytest.param(
            [like(0, 1, A, CHANGED, 1, 1)], Stored({}, {"p": (1, 0)}), "is lost or made up", id="a lost like"
        ),
        pytest.param(GOOD, replace(STORED, edges={}), "is lost or made up", id="lost edges"),
        pytest.param(
            GOOD,
            replace(STORED, edges={**STORED.edges, A: (True, 0)}),
            "is lost or made up",
            id="a lost unlike",
        ),
        pytest.param(
            GOOD,
            replace(STORED, edges={**STORED.edges, A: (False, 0)}),
            "is lost or made up",
            id="a forgotten intent",
        ),
        pytest.param(
            GOOD,
            replace(STORED, edges={**STORED.edges, ("p", "c"): (True, 0)}),
            "nobody",
            id="a like of nobody's",
        ),
        pytest.param(GOOD, replace(STORED, posts={"p": (3, 2)}), "1 liked edges", id="a doubled count"),
        pytest.param(
            GOOD, replace(STORED, posts={"p": (4, 1)}), "answered to nobody", id="a change of nobody's"
        ),
        pytest.param(
            GOOD, replace(STORED, posts={"p": (2, 1)}), "is at 2 at the end", id="a version that went back"
        ),
        pytest.param(GOOD, replace(STORED, posts={}), "liked edges", id="a lost post"),
        pytest.param(GOOD, replace(STORED, twice=["post p"]), "on two nodes", id="a post on two nodes"),
        pytest.param(
            [*GOOD, like(9, 10, B, CHANGED, 4, 2)],
            Stored(STORED.edges, {"p": (4, 2)}),
            "no order explains",
            id="a like counted twice",
        ),
        pytest.param(
            [*GOOD, like(9, 10, A, UNCHANGED, 3, 1)],
            STORED,
            "no order explains",
            id="a like that did nothing",
        ),
        pytest.param(
            [*GOOD, unlike(9, 10, A, CHANGED, 3, 1)], STORED, "was answered to", id="a version answered twice"
        ),
        pytest.param(
            [*GOOD[:3], unlike(6, 8, A, CHANGED, 3, 3)],
            Stored(STORED.edges, {"p": (3, 3)}),
            "has count 2, and count 4",
            id="a count that jumps",
        ),
        pytest.param(
            [*GOOD, saw_count(9, 10, 3, 2)], STORED, "has count 1, and count 2", id="two counts of a version"
        ),
        pytest.param(
            [*GOOD[:2], unlike(20, 21, A, CHANGED, 4, 3)],
            Stored(STORED.edges, {"p": (4, 3)}),
            "count moved by 2 from version 2 to 3",
            id="a count that drifts",
        ),
        pytest.param(
            [*GOOD, saw_count(9, 10, 2, 2, strong=True)], STORED, "when the strong", id="a stale strong count"
        ),
        pytest.param(
            [*GOOD, saw_count(7, 7, 3, 1), saw_count(8, 9, 2, 2, strong=True)],
            STORED,
            "when the strong",
            id="a strong count older than what was seen",
        ),
        pytest.param(
            [*GOOD, saw_count(9, 10, 2, 2)], STORED, "to the caller itself", id="one's own write not read"
        ),
        pytest.param(
            [*GOOD, saw_count(9, 10, 2, 2, caller=2)],
            STORED,
            "had been acknowledged",
            id="another's write not read",
        ),
        pytest.param(
            [*GOOD, saw_like(9, 10, A, True, strong=True)],
            STORED,
            "no order explains",
            id="a stale strong like",
        ),
        pytest.param([*GOOD, saw_like(9, 10, A, True)], STORED, "no order explains", id="a stale like"),
        pytest.param(
            [*GOOD, saw_like(6, 6, A, False, strong=True), saw_like(7, 7, A, True, strong=True)],
            STORED,
            "no order explains",
            id="a like that comes and goes",
        ),
        pytest.param(
            [saw_count(0, 1, 1, 1), like(2, 3, A, CHANGED, 1, 1)],
            Stored({A: _stored(True, 2)}, {"p": (1, 1)}),
            "only 0 changes had begun",
            id="a version of the future",
        ),
        pytest.param(
            [like(0, 9, A, CHANGED, 2, 2), saw_count(1, 2, 1, 1), like(3, 4, B, CHANGED, 1, 1)],
            Stored({A: _stored(True, 1), B: _stored(True, 3)}, {"p": (2, 2)}),
            "before the change of its version began",
            id="another's version of the future",
        ),
        pytest.param(
            [like(0, 1, A, CHANGED, 2, 2), like(2, 3, B, CHANGED, 1, 1)],
            Stored({A: _stored(True, 1), B: _stored(True, 3)}, {"p": (2, 2)}),
            "had been seen when",
            id="versions against the order of time",
        ),
        pytest.param(
            [*GOOD, like(9, 10, A, CHANGED, 4, 2, intent=5)],
            Stored({A: _stored(True, 5), B: _stored(True, 1)}, {"p": (4, 2)}),
            "no order explains",
            id="an unlike undone by an older intent",
        ),
        pytest.param(
            [*GOOD, like(9, 10, A, SUPERSEDED, 3, 1, intent=9)],
            STORED,
            "no order explains",
            id="superseded by nothing newer",
        ),
        pytest.param(
            [like(0, 1, A, CHANGED, 1, 1), like(2, 3, A, SUPERSEDED, 1, 1)],
            Stored({A: _stored(True, 0)}, {"p": (1, 1)}),
            "no order explains",
            id="superseded without an intent",
        ),
        pytest.param(
            [
                like(0, 1, A, CHANGED, 1, 1, call=1, index=1),
                unlike(0, 1, A, UNCHANGED, 0, 0, call=1, index=0),
            ],
            Stored({A: _stored(True, 0)}, {"p": (1, 1)}),
            "",
            id="(of one call in its order: right)",
        ),
        pytest.param(
            [
                like(0, 1, A, CHANGED, 1, 1, call=1, index=0),
                unlike(0, 1, A, UNCHANGED, 0, 0, call=1, index=1),
            ],
            Stored({A: _stored(True, 0)}, {"p": (1, 1)}),
            "no order explains",
            id="of one call in another order",
        ),
        pytest.param(
            [*GOOD, like(9, None, A, intent=9)], STORED, "", id="(a failure, when failures may be: right)"
        ),
    ],
)
def test_a_broken_promise_is_found(
    records: Sequence[Change | CountSeen | LikeSeen], stored: Stored, message: str
) -> None:
    """One broken promise each, named; without a message the history is right after all."""
    found = judge(records, stored)
    if message:
        assert any(message in problem for problem in found), found
    else:
        assert found == []


def test_a_call_that_failed_is_found() -> None:
    """Unless parts were killed."""
    history = History(failures=["SLOT_MOVING: too long"])
    assert contradictions(history, Stored(), trouble=False) == ["a call failed: SLOT_MOVING: too long"]
    assert contradictions(history, Stored(), trouble=True) == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("trouble", [False, True], ids=["calm", "trouble"])
def test_what_is_wrong_is_found_among_much_that_is_right(seed: int, trouble: bool) -> None:
    """In a long history with calls under way at the same time, one thing each is made wrong."""
    simulation = Simulation(seed, trouble=trouble)
    history, stored = simulation.history, simulation.stored
    chance = random.Random(seed)

    def wrong(changes: Sequence[Change] | None = None, **of_stored: Any) -> list[str]:
        other = replace(history, changes=list(changes if changes is not None else history.changes))
        return contradictions(other, replace(stored, **of_stored), trouble=trouble)

    post, (version, count) = chance.choice(sorted(stored.posts.items()))
    assert wrong(posts={**stored.posts, post: (version, count + 1)})
    assert wrong(posts={**stored.posts, post: (version - 1, count)})
    edge = chance.choice([edge for edge in stored.edges if edge[0] == post])
    liked, intent = stored.edges[edge]
    assert wrong(edges={**stored.edges, edge: (not liked, intent)})
    assert wrong(edges={**stored.edges, edge: (liked, intent + 3_600_000_000)}) or trouble
    position, told = chance.choice(
        [(n, change) for n, change in enumerate(history.changes) if change.changed]
    )
    others = [*history.changes[:position], *history.changes[position + 1 :]]
    assert wrong([*others, replace(told, version=told.version + 1)])
    assert wrong([*others, replace(told, count=told.count + 1)])
    assert wrong([*others, replace(told, like=not told.like)])
    assert wrong([*history.changes, told])
    if not trouble:
        assert wrong(others)


def test_a_search_that_takes_too_long_is_no_approval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle says that it does not know."""
    monkeypatch.setattr(edge_order, "MAX_STATES", 3)
    records = [like(0, None, A, intent=n) for n in range(9)]
    found = judge(records, Stored({A: _stored(False, 1)}, {"p": (9, 0)}), trouble=True)
    assert any("cannot be judged" in problem for problem in found)


def test_the_message_names_the_seed_and_how_many_there_are() -> None:
    """So that a failed run can be repeated."""
    assert judged([], 7) == ""
    assert judged(["x"] * 30, 7).splitlines()[:2] == ["seed 7: 30 contradictions", "x"]


# Who owns what

PLACED = Placement(
    [("a", 1), ("b", 2)], {"a": Held({0: (1, "owner")}, {0}), "b": Held({1: (2, "owner")}, {1})}
)


def test_a_settled_cluster_has_one_owner_for_each_slot() -> None:
    """By the topology and by the nodes' own databases."""
    assert misplaced(PLACED) == left_behind(PLACED) == []


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (Held({0: (1, "owner"), 1: (1, "owner")}), Held({1: (2, "owner")}), "slot 1 is b's at epoch 2"),
        (Held({0: (1, "owner")}), Held(), "slot 1 is b's at epoch 2"),
        (Held({0: (1, "owner")}), Held({1: (1, "owner")}), "of nodes {'b': 1}"),
        (Held({0: (1, "owner"), 1: (1, "frozen")}), Held({1: (2, "owner")}), "slot 1 is frozen on node a"),
        (Held({0: (1, "owner")}, {0, 1}), Held({1: (2, "owner")}, {1}), "slot 1 has rows on node a"),
        (Held({0: (1, "owner")}, wrong_counts=["p has"]), Held({1: (2, "owner")}), "node a: p has"),
    ],
    ids=["two owners", "no owner", "another epoch", "still frozen", "rows elsewhere", "a wrong count"],
)
def test_a_slot_with_more_or_less_than_one_owner_is_found(a: Held, b: Held, message: str) -> None:
    """So is whatever lies where it does not belong."""
    found = misplaced(replace(PLACED, held={"a": a, "b": b}))
    assert any(message in problem for problem in found), found


def test_what_moves_leave_is_found() -> None:
    """In the catalogs, and among the slots."""
    held = Held({1: (2, "owner"), 0: (1, "moved")}, leftovers=["publication likering_s0_m1_a1"])
    found = left_behind(replace(PLACED, held={"b": held}))
    assert found == ["node b: publication likering_s0_m1_a1", "node b: slot 0 is moved there"]
