"""How long a target rests, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shard_node.handoff.rests import AFTER_MOVE, AFTER_STEP, MOST_AFTER_MOVE, MOST_AFTER_STEP, Rests
from tests.parts.clock import Clock

Sleep = Callable[[float], Awaitable[None]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slept() -> list[float]:
    """How long was slept, each time."""
    return []


@pytest.fixture
def sleep(clock: Clock, slept: list[float]) -> Sleep:
    async def rest(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    return rest


def test_a_step_is_rested_for_longer_than_it_took(clock: Clock, sleep: Sleep, slept: list[float]) -> None:
    rests = Rests(lambda: True, clock, sleep)
    for seconds in (0.02, 0.05, 5.0):
        clock.now += seconds
        asyncio.run(rests.after_step())
    assert slept == pytest.approx([0.02 * AFTER_STEP, 0.05 * AFTER_STEP, MOST_AFTER_STEP])


def test_a_move_is_rested_for_longer_than_it_took_but_not_for_ever(clock: Clock) -> None:
    rests = Rests(lambda: True, clock)
    clock.now += 0.4
    assert rests.after_move == pytest.approx(0.4 * AFTER_MOVE)
    clock.now += 3600
    assert rests.after_move == MOST_AFTER_MOVE


def test_where_nobody_calls_there_is_no_rest(clock: Clock, sleep: Sleep, slept: list[float]) -> None:
    rests = Rests(lambda: False, clock, sleep)
    clock.now += 1.0
    asyncio.run(rests.after_step())
    assert not slept
    assert rests.after_move == 0.0
