"""When a slot is to be frozen, by the probes and a clock of the test's own."""

from __future__ import annotations

import pytest

from shard_node.handoff.forecast import (
    CALM,
    CALM_COMMIT,
    CALM_PATIENCE,
    MOST_STEPS,
    PROBES,
    SLOW_AFTER,
    SLOW_STEP,
    Advice,
    Forecast,
)
from tests.parts.clock import Clock

BUDGET = 0.1
QUICK, FITS, LONG = CALM / 2, 0.03, 0.06


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forecast(clock: Clock) -> Forecast:
    return Forecast(clock)


def advice(forecast: Forecast, *probes: float) -> list[Advice]:
    return [forecast.advice(seconds, BUDGET) for seconds in probes]


def test_one_quick_probe_is_luck(forecast: Forecast) -> None:
    assert advice(forecast, *[QUICK] * PROBES) == [Advice.PROBE_AGAIN] * (PROBES - 1) + [Advice.FREEZE]


def test_a_slow_probe_counts_until_enough_others_have_followed(forecast: Forecast) -> None:
    assert advice(forecast, LONG, QUICK, QUICK, QUICK)[2:] == [Advice.WAIT, Advice.FREEZE]


def test_what_fits_waits_for_a_calm_moment_but_not_for_ever(forecast: Forecast, clock: Clock) -> None:
    assert advice(forecast, *[FITS] * 10) == [Advice.PROBE_AGAIN] * 10
    clock.now += CALM_PATIENCE - 0.001
    assert advice(forecast, FITS) == [Advice.PROBE_AGAIN]
    clock.now += 0.002
    assert advice(forecast, FITS) == [Advice.FREEZE]


def test_a_calm_moment_is_taken_at_once(forecast: Forecast) -> None:
    assert advice(forecast, FITS, FITS, FITS, QUICK, QUICK, QUICK)[-1] is Advice.FREEZE


def test_a_slow_commit_in_the_topology_is_no_calm_moment_either(forecast: Forecast, clock: Clock) -> None:
    assert advice(forecast, *[QUICK] * PROBES)[-1] is Advice.FREEZE
    assert forecast.still(CALM_COMMIT)
    assert not forecast.still(CALM_COMMIT + 0.001)
    clock.now += CALM_PATIENCE
    assert forecast.still(CALM_COMMIT + 0.001), "waited long enough"


@pytest.mark.parametrize(("budget", "expected"), [(0.12, Advice.PROBE_AGAIN), (0.11, Advice.WAIT)])
def test_draining_may_take_half_of_the_budget(forecast: Forecast, budget: float, expected: Advice) -> None:
    assert [forecast.advice(LONG, budget) for _ in range(PROBES)][-1] is expected


def test_what_comes_after_draining_must_fit_as_well(forecast: Forecast) -> None:
    assert [forecast.advice(0.001, 0.02) for _ in range(PROBES)][-1] is Advice.WAIT
    assert forecast.pause == pytest.approx(0.021)


def test_what_was_forgotten_does_not_count(forecast: Forecast) -> None:
    advice(forecast, LONG, LONG)
    forecast.forget()
    assert advice(forecast, *[QUICK] * PROBES)[-1] is Advice.FREEZE


def test_a_source_that_cannot_be_followed_rests_longer_and_longer(forecast: Forecast, clock: Clock) -> None:
    advice(forecast, *[LONG] * PROBES)
    rests = [forecast.rest]
    clock.now += SLOW_AFTER
    for _ in range(8):
        advice(forecast, LONG)
        rests.append(forecast.rest)
        clock.now += SLOW_STEP
    assert rests == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, *[2.0**MOST_STEPS] * 3]
    clock.now += 3600
    assert forecast.rest == 2.0**MOST_STEPS


def test_one_probe_that_is_much_too_late_is_enough_to_slow_the_source(
    forecast: Forecast, clock: Clock
) -> None:
    assert advice(forecast, 5.0) == [Advice.WAIT]
    clock.now += SLOW_AFTER
    assert forecast.rest == 1.0


def test_a_source_that_is_followed_again_writes_as_before(forecast: Forecast, clock: Clock) -> None:
    advice(forecast, *[LONG] * PROBES)
    clock.now += 10
    advice(forecast, *[FITS] * PROBES)
    assert forecast.rest == 0.0
    advice(forecast, LONG)
    assert forecast.rest == 0.0, "late only since now"
    clock.now += 10
    forecast.forget()
    assert forecast.rest == 0.0


def test_a_budget_that_nothing_keeps_within_slows_nobody(forecast: Forecast, clock: Clock) -> None:
    assert {forecast.advice(0.001, 0.015) for _ in range(10)} == {Advice.WAIT}
    clock.now += 3600
    assert forecast.rest == 0.0


def test_a_calm_moment_is_waited_for_anew_after_a_late_probe(forecast: Forecast, clock: Clock) -> None:
    advice(forecast, *[FITS] * PROBES)
    advice(forecast, LONG)
    clock.now += CALM_PATIENCE + 1
    assert advice(forecast, *[FITS] * PROBES)[-1] is Advice.PROBE_AGAIN


def test_a_source_that_is_followed_never_rests(forecast: Forecast, clock: Clock) -> None:
    advice(forecast, *[FITS] * PROBES)
    clock.now += 3600
    assert forecast.rest == 0.0
