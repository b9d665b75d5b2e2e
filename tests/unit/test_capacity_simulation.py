"""Rings on paper: every resize moves the fewest slots, and simulated time is that of the moves' limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from likering.capacity.simulation import Scenario, SimulatedRing, rebalance_seconds, simulate
from likering.ring.plan import SECONDS_PER_SLOT, Move

SMALL = Scenario(slots=256, first_nodes=3, nodes=20, joins=2, losses=2, posts=5_000, rows=1_000_000)


def test_each_resize_moves_the_fewest_slots_and_leaves_no_node_with_more_than_its_quota() -> None:
    steps = list(simulate(SMALL))
    assert [step.nodes for step in steps] == [3, 6, 12, 20, 21, 22, 21, 20]
    for step in steps:
        assert step.moved == step.fewest
        assert step.slots_max_over_mean == pytest.approx(math.ceil(256 / step.nodes) * step.nodes / 256)
        assert step.load_max_over_mean >= 1
        assert (step.rows_moved > 0) == (step.moved > 0) == (step.seconds > 0)
    assert steps[0].moved == 0


def test_a_seed_gives_the_same_simulation_and_another_one_another() -> None:
    assert list(simulate(SMALL)) == list(simulate(SMALL))
    other = list(simulate(replace(SMALL, seed=1)))
    assert other != list(simulate(SMALL))
    assert [step.moved for step in other[:4]] == [step.moved for step in list(simulate(SMALL))[:4]]


def test_a_post_that_takes_all_likes_is_all_that_counts() -> None:
    """Then one node has the load of all."""
    scenario = replace(SMALL, viral=1, viral_share=0.999_999)
    for step in simulate(scenario):
        assert step.viral_max_over_mean == pytest.approx(step.nodes, rel=0.01)


def test_as_many_nodes_as_there_may_be_on_as_many_slots_as_there_may_be() -> None:
    steps = list(simulate(Scenario(posts=20_000)))
    assert steps[0].nodes == 10
    assert max(step.nodes for step in steps) == 2003
    assert all(step.moved == step.fewest for step in steps)


@pytest.mark.parametrize(
    "change",
    [
        {"first_nodes": 30},
        {"slots": 100},
        {"nodes": 300},
        {"losses": 22},
        {"joins": 237},
        {"exponent": math.nan},
        {"exponent": -0.5},
        {"viral_share": math.nan},
        {"rows": 10**19},
        {"viral": 2, "viral_share": 0.5},
        {"posts": 0},
        {"slots_at_once": 0},
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"slots|nodes|viral|post|rows"):
        list(simulate(replace(SMALL, **change)))


def test_moves_between_two_nodes_come_one_after_the_other() -> None:
    moves = [Move(slot, "a", "b", 1) for slot in range(4)]
    rows = [1000, 2000, 3000, 4000]
    assert rebalance_seconds(moves, rows, 1, 1000) == pytest.approx(4 * SECONDS_PER_SLOT + 10)
    assert rebalance_seconds([], rows, 1, 1000) == 0.0


def test_moves_between_different_nodes_come_at_the_same_time() -> None:
    moves = [Move(0, "a", "b", 1), Move(1, "c", "d", 1)]
    assert rebalance_seconds(moves, [1000, 3000], 1, 1000) == pytest.approx(SECONDS_PER_SLOT + 3)


def test_a_source_feeds_one_target_at_a_time_and_who_waits_takes_another_source_meanwhile() -> None:
    moves = [Move(0, "a", "x", 1), Move(1, "a", "y", 1), Move(2, "b", "y", 1)]
    each = SECONDS_PER_SLOT + 1
    assert rebalance_seconds(moves[:2], [1000] * 3, 1, 1000) == pytest.approx(2 * each)
    assert rebalance_seconds(moves, [1000] * 3, 1, 1000) == pytest.approx(2 * each)


def test_more_slots_at_once_share_what_a_node_copies() -> None:
    """So only what a move takes besides its rows is shorter then."""
    moves = [Move(slot, f"s{slot}", "t", 1) for slot in range(2)]
    assert rebalance_seconds(moves, [1000, 1000], 1, 1000) == pytest.approx(2 * SECONDS_PER_SLOT + 2)
    assert rebalance_seconds(moves, [1000, 1000], 2, 1000) == pytest.approx(SECONDS_PER_SLOT + 2)


def test_a_first_assignment_is_no_move() -> None:
    ring = SimulatedRing(8, ["a", "b"])
    assert ring.topology.unowned == ()
    made = ring.resize(["a", "b"])
    assert made.moves == ()
    assert ring.resize(["a", "b", "c"]).moved == 2
    assert sorted(ring.topology.epochs) == [1] * 6 + [2] * 2
