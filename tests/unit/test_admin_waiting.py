"""Why a move waits: what nodes say, what they leave unsaid, and which command helps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from likering.topology import wait_reasons
from likering.topology.moves import MoveLimits, MoveState
from router.admin.waiting import Waiting, Word, copy_eta, last_sign, last_words, waiting
from tests.parts.moves import NOW, slot_move

LIMITS = MoveLimits()
PAUSED = MoveLimits(paused=True)


@pytest.mark.parametrize(
    "state", [state for state in MoveState if state not in (MoveState.PLANNED, MoveState.VERIFIED)]
)
def test_a_move_of_which_its_node_speaks_does_not_wait(state: MoveState) -> None:
    move = slot_move(state)
    assert waiting(move, LIMITS, last_words([move])) is None


@pytest.mark.parametrize(
    ("state", "node"),
    [
        (MoveState.PLANNED, "b"),
        (MoveState.COPYING, "b"),
        (MoveState.CATCHING_UP, "b"),
        (MoveState.FREEZING, "b"),
        (MoveState.ABORTED, "b"),
        (MoveState.COMMITTED, "b"),
        (MoveState.ACTIVATING, "b"),
        (MoveState.ACTIVE, "a"),
        (MoveState.MOVED, "b"),
    ],
)
def test_silence_of_the_node_that_is_to_act_is_told(state: MoveState, node: str) -> None:
    move = slot_move(state, word_age=9.0, waits_for="the lag is above the budget")
    found = waiting(move, LIMITS, last_words([move]))
    assert found is not None
    assert found.reason == f"node {node} has given no sign for 9 s"
    assert found.since == NOW - timedelta(seconds=9)
    assert found.command.startswith(f"start node {node}")
    assert ("likering ring revert-slot 3" in found.command) is (state is MoveState.COMMITTED)
    past = state in (MoveState.ACTIVATING, MoveState.ACTIVE, MoveState.MOVED)
    assert (f"likering ring cancel --lost {node}" in found.command) is past


def test_a_comparison_that_waits_for_a_lost_source_names_the_way_out() -> None:
    move = slot_move(MoveState.MOVED, waits_for=wait_reasons.silent("a"))
    found = waiting(move, LIMITS, last_words([move]))
    assert found is not None
    assert found.command == "start that node, or if it is gone for good: likering ring cancel --lost a"


def test_a_sign_is_what_a_node_says_of_a_move_in_which_it_is_to_act() -> None:
    """Not the transition that made it its turn: that may be the other node's."""
    spoken = slot_move(MoveState.MOVED, word_age=3.0, state_age=9.0)
    earlier = slot_move(MoveState.COPYING, word_age=4.0, state_age=9.0)
    assert last_sign([earlier, spoken], "b") == 3.0
    assert last_sign([spoken], "a") is None
    assert last_sign([slot_move(MoveState.ACTIVE, word_age=1.0, state_age=1.1)], "a") is None


def test_a_node_is_alive_if_it_speaks_of_another_move() -> None:
    silent = slot_move(MoveState.PLANNED, word_age=60.0)
    other = slot_move(MoveState.COPYING, move=8, slot=4, word_age=0.5)
    words = last_words([silent, other])
    assert words == {"b": Word(other.word_at, 0.5)}
    found = waiting(silent, LIMITS, words)
    assert found == Waiting("other moves to node b come first", silent.state_since)


def test_a_move_that_has_failed_says_with_what() -> None:
    move = slot_move(MoveState.PLANNED, attempt=2, last_error="the replication slot is gone")
    assert waiting(move, LIMITS, last_words([move])) == Waiting(
        "it is tried again, after: the replication slot is gone", move.state_since
    )


@pytest.mark.parametrize("state", [MoveState.PLANNED, MoveState.CATCHING_UP, MoveState.ABORTED])
def test_a_pause_holds_what_has_not_frozen(state: MoveState) -> None:
    move = slot_move(state, word_age=9.0)
    found = waiting(move, PAUSED, last_words([move]))
    assert found is not None
    assert (found.reason, found.command) == ("moves are paused", "likering ring resume")


@pytest.mark.parametrize("state", [MoveState.COPYING, MoveState.FREEZING, MoveState.COMMITTED])
def test_a_pause_holds_nothing_else(state: MoveState) -> None:
    move = slot_move(state)
    assert waiting(move, PAUSED, last_words([move])) is None


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        (
            wait_reasons.busy("b"),
            "likering ring limits --slots-at-once N",
        ),
        (
            wait_reasons.over_budget(139.7, 100),
            "likering ring limits --pause-budget MILLISECONDS",
        ),
        (wait_reasons.silent("a"), "start that node"),
        ("node budget-at-once: wal_level is replica; a transaction is paused", ""),
        (
            wait_reasons.transactions("a", "process 4711 (psql)"),
            "end it there: SELECT pg_terminate_backend(PROCESS)",
        ),
        (wait_reasons.held_twice("a", "b"), "likering ring check"),
        (wait_reasons.behind(5.0), ""),
    ],
)
def test_what_a_node_waits_for_comes_with_the_command_that_helps(reason: str, command: str) -> None:
    since = NOW - timedelta(seconds=30)
    move = slot_move(MoveState.CATCHING_UP, waits_for=reason, waits_since=since)
    found = waiting(move, LIMITS, last_words([move]))
    assert found is not None
    assert (found.reason, found.since, found.command) == (reason, since, command)


def test_a_kept_copy_is_no_wait_until_its_grace_is_well_over() -> None:
    limits = MoveLimits(grace_seconds=60)
    assert waiting(slot_move(MoveState.VERIFIED, state_age=80.0, word_age=80.0), limits, {}) is None
    found = waiting(slot_move(MoveState.VERIFIED, state_age=100.0, word_age=100.0), limits, {})
    assert found is not None
    assert found.reason == "node a should have dropped its copy 40 s ago"
    assert found.since == NOW - timedelta(seconds=40)


@pytest.mark.parametrize("state", [MoveState.RETIRED, MoveState.CANCELLED, MoveState.REVERTED])
def test_what_has_ended_waits_for_nothing(state: MoveState) -> None:
    move = slot_move(state, word_age=1000.0, waits_for="something")
    assert last_words([move]) == {}
    assert waiting(move, PAUSED, {}) is None


def test_the_copy_is_done_when_the_speed_so_far_says() -> None:
    copying = {"state_age": 10.0, "rows_total": 1000}
    assert copy_eta(slot_move(MoveState.COPYING, rows_copied=250, **copying)) == 30.0
    assert copy_eta(slot_move(MoveState.COPYING, rows_copied=1200, **copying)) == 0.0
    assert copy_eta(slot_move(MoveState.COPYING, rows_copied=0, **copying)) == -1.0
    assert copy_eta(slot_move(MoveState.PLANNED)) == -1.0
    assert copy_eta(slot_move(MoveState.CATCHING_UP, rows_total=10, rows_copied=10)) == 0.0
    assert copy_eta(slot_move(MoveState.CANCELLED)) == -1.0
