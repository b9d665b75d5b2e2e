"""Plans as operators see them: what they hold, what they will take, and when they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from likering.admin.v1 import ring_service_pb2 as api
from likering.errors import InvalidArgument, NotPossible, PlanStale, WrongCluster
from likering.ring.plan import Move
from likering.ring.topology import Node, NodeState, Topology
from likering.topology.moves import MoveLimits
from likering.topology.store import NodeUnknown
from router.admin.planning import (
    SlotSize,
    changed_weights,
    check_current,
    check_made,
    draft,
    expected_seconds,
    from_json,
    plan_message,
    planned_moves,
    to_json,
)

LIMITS = MoveLimits(slots_at_once=2, rows_per_second=1000)


def topology(owners: str = "aaaabbbb", draining: str = "", **weights: int) -> Topology:
    """By slot the owner's one-letter name, or a dot for none. Nodes: those that own slots, and c."""
    names = sorted((set(owners) | {"c"}) - {"."})
    return Topology(
        cluster_id="cluster",
        version=5,
        slot_count=len(owners),
        nodes={
            name: Node(
                name,
                name,
                "host:1",
                weights.get(name, 1),
                NodeState.DRAINING if name in draining else NodeState.ACTIVE,
                1,
            )
            for name in names
        },
        owners=tuple(None if owner == "." else owner for owner in owners),
        epochs=tuple(0 if owner == "." else 1 for owner in owners),
    )


def made(at: Topology, weights: dict[str, int] | None = None, **other: Any) -> api.Plan:
    values: dict[str, Any] = {"sizes": {}, "limits": LIMITS, "pauses": [], **other}
    return plan_message(at, draft(at, weights or {}), weights or {}, **values)


def test_a_new_node_gets_its_quota_by_the_fewest_moves() -> None:
    plan = made(topology())
    assert (plan.cluster_id, plan.version) == ("cluster", 5)
    assert {move.target for move in plan.moves} == {"c"}
    assert len(plan.moves) == plan.minimum == 2
    assert [move.epoch for move in plan.moves] == [1, 1]
    assert {share.node: share.slots for share in plan.before} == {"a": 4, "b": 4, "c": 0}
    assert {share.node: share.slots for share in plan.after} == {"a": 3, "b": 3, "c": 2}
    assert plan.after[2].quota == pytest.approx(8 / 3)


def test_weights_are_planned_for_before_they_are_set() -> None:
    plan = made(topology(), {"c": 2})
    assert dict(plan.weights) == {"c": 2}
    assert len(plan.moves) == 4


def test_a_draining_node_is_emptied() -> None:
    plan = made(topology(draining="a"))
    assert {move.source for move in plan.moves} == {"a"}
    assert {share.node: share.slots for share in plan.after} == {"b": 4, "c": 4}


def test_a_plan_that_was_not_made_here_is_refused() -> None:
    plan = made(topology())
    check_made(plan)
    twice, nowhere, source, share = (api.Plan.FromString(plan.SerializeToString()) for _ in range(4))
    twice.moves.add().CopyFrom(plan.moves[0])
    nowhere.moves[0].target = nowhere.moves[0].source
    source.moves[0].source = "a\0"
    share.after[0].node = "\0"
    for broken, what in (
        (twice, "a slot twice"),
        (nowhere, "that it is on"),
        (source, "NUL"),
        (share, "NUL"),
    ):
        with pytest.raises(InvalidArgument, match=what):
            check_made(broken)


def test_only_weights_that_differ_are_changes() -> None:
    assert changed_weights(topology(), {"a": 1, "b": 3}) == {"b": 3}
    with pytest.raises(NodeUnknown, match="No node x has registered; known are: a, b, c"):
        changed_weights(topology(), {"x": 1})
    with pytest.raises(InvalidArgument, match=r"from 1 to 1000, not 0 \(node a\)"):
        changed_weights(topology(), {"a": 0})


def test_slots_without_owner_and_a_ring_without_active_nodes_are_refused() -> None:
    with pytest.raises(NotPossible, match=r"2 slots have no owner yet: .* likering cluster assign"):
        draft(topology("aaaabb.."), {})
    with pytest.raises(NotPossible, match="No node is active"):
        draft(topology(draining="abc"), {})


def test_sizes_are_those_known() -> None:
    plan = made(topology(), sizes={})
    assert {(move.rows, move.bytes) for move in plan.moves} == {(-1, -1)}
    assert plan.expected_seconds == -1
    sizes = {slot: SlotSize(1000 * (slot + 1), 10) for slot in range(8)}
    plan = made(topology(), sizes=sizes)
    assert [(move.rows, move.bytes) for move in plan.moves] == [
        (1000 * (move.slot + 1), 10) for move in plan.moves
    ]


def test_the_expected_pause_is_the_median_of_recent_ones() -> None:
    assert made(topology()).expected_pause == 0.015
    assert made(topology(), pauses=[9000, 20_000, 11_000]).expected_pause == pytest.approx(0.011)


def move(source: str, target: str, rows: int) -> api.PlannedMove:
    return api.PlannedMove(source=source, target=target, rows=rows)


@pytest.mark.parametrize(
    ("moves", "limits", "seconds"),
    [
        ([], LIMITS, 0.0),
        # One target: all rows at its rate, and the moves' own time two at a time.
        ([move("a", "c", 1000), move("b", "c", 3000)], LIMITS, 4.5),
        # One source: two targets copy at the same time.
        ([move("a", "b", 1000), move("a", "c", 1000)], LIMITS, 1.5),
        # But not with one slot at once.
        (
            [move("a", "b", 1000), move("a", "c", 1000)],
            MoveLimits(slots_at_once=1, rows_per_second=1000),
            3.0,
        ),
        # Without a limit it is as fast as a node copies.
        ([move("a", "b", 100_000)], MoveLimits(slots_at_once=2, rows_per_second=0), 1.25),
        ([move("a", "b", 100), move("a", "b", -1)], LIMITS, -1.0),
    ],
)
def test_the_expected_time_is_that_of_the_busiest_node(
    moves: list[api.PlannedMove], limits: MoveLimits, seconds: float
) -> None:
    assert expected_seconds(moves, limits) == pytest.approx(seconds)


def test_a_plan_is_for_one_version_of_one_cluster() -> None:
    plan = made(topology())
    check_current(plan, topology())
    plan.version = 4
    with pytest.raises(PlanStale, match="for version 4 of the topology, which is at 5 by now"):
        check_current(plan, topology())
    plan.cluster_id = "other"
    with pytest.raises(WrongCluster, match="for cluster other, but this is cluster cluster"):
        check_current(plan, topology())


def test_a_plan_is_kept_as_it_is() -> None:
    plan = made(topology(), {"c": 2}, sizes={0: SlotSize(2**40, 2**50)})
    assert from_json(to_json(plan)) == plan
    assert from_json({**to_json(plan), "added_later": 1}) == plan
    assert planned_moves(plan) == [Move(m.slot, m.source, m.target, 1) for m in plan.moves]
