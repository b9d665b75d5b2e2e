"""When a move that failed is tried again, by a clock of the test's own."""

from __future__ import annotations

import pytest

from likering.topology.moves import MoveState
from shard_node.handoff.retries import FIRST_PAUSE, LONGEST_PAUSE, Retries
from tests.parts.clock import Clock
from tests.parts.moves import slot_move


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retries(clock: Clock) -> Retries:
    return Retries(clock)


def pause_of(retries: Retries, clock: Clock, state: MoveState = MoveState.PLANNED) -> float:
    """Seconds until the move may be tried, to a quarter."""
    move, seconds = slot_move(state), 0.0
    while not retries.may_try(move):
        clock.now += 0.25
        seconds += 0.25
    return seconds


def test_the_pauses_double_up_to_the_longest(retries: Retries, clock: Clock) -> None:
    pauses = []
    for _ in range(7):
        retries.failed(slot_move().move)
        pauses.append(pause_of(retries, clock))
    assert pauses == [FIRST_PAUSE, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_move_may_fail_for_days(retries: Retries, clock: Clock) -> None:
    for _ in range(3000):
        retries.failed(slot_move().move)
    assert pause_of(retries, clock) == LONGEST_PAUSE


def test_callers_wait_for_a_committed_one(retries: Retries, clock: Clock) -> None:
    for _ in range(10):
        retries.failed(slot_move().move)
    assert pause_of(retries, clock, MoveState.ACTIVATING) == FIRST_PAUSE


def test_a_move_that_is_gone_is_forgotten(retries: Retries) -> None:
    retries.failed(slot_move().move)
    retries.keep({slot_move().move})
    assert not retries.may_try(slot_move())
    retries.keep(())
    assert retries.may_try(slot_move())
