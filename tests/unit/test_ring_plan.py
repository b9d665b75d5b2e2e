"""Plans: what moves, how few could, and how even it is before and after."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.ring.plan import Move, plan
from likering.ring.topology import Node, NodeState, Topology

weights_by_name = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4), min_size=1)


def topology(owners: str, weights: dict[str, int], draining: str = "") -> Topology:
    """Slots owned as the letters say, at epoch 3; a dash is a slot without owner."""
    return Topology(
        cluster_id="c",
        version=7,
        slot_count=len(owners),
        nodes={
            name: Node(
                name,
                f"uuid-{name}",
                f"{name}:1",
                weight,
                NodeState.DRAINING if name in draining else NodeState.ACTIVE,
                1,
            )
            for name, weight in weights.items()
        },
        owners=tuple(None if owner == "-" else owner for owner in owners),
        epochs=tuple(0 if owner == "-" else 3 for owner in owners),
    )


def test_first_assignment_moves_nothing() -> None:
    first = plan(topology("-" * 8, {"a": 1, "b": 3}))
    assert [move.slot for move in first.moves] == list(range(8))
    assert {(move.source, move.epoch) for move in first.moves} == {(None, 0)}
    assert first.moved == first.minimum == 0
    assert first.after.slots == {"a": 2, "b": 6}
    assert first.before.max_over_share == 0
    assert first.after.max_over_share == 1


def test_a_new_node_gets_its_share_and_nobody_else_anything() -> None:
    grown = plan(topology("aaaabbbb", {"a": 1, "b": 1, "c": 2}))
    assert grown.version == 7
    assert {(move.target, move.epoch) for move in grown.moves} == {("c", 3)}
    assert grown.moved == grown.minimum == 4
    assert grown.before.shares == {"a": 2.0, "b": 2.0, "c": 4.0}
    assert grown.before.slots == {"a": 4, "b": 4, "c": 0}
    assert (grown.before.max_over_share, grown.after.max_over_share) == (2.0, 1.0)


def test_a_draining_node_ends_empty() -> None:
    drained = plan(topology("aaaabbbb", {"a": 1, "b": 1}, draining="b"))
    assert drained.moves == tuple(Move(slot, "b", "a", 3) for slot in range(4, 8))
    assert drained.before.max_over_share == float("inf")
    assert drained.after.slots == {"a": 8}


def test_nothing_to_do_is_an_empty_plan() -> None:
    even = plan(topology("abababab", {"a": 1, "b": 1}))
    assert even.moves == ()
    assert even.before == even.after


def test_no_active_node_is_an_error() -> None:
    with pytest.raises(ValueError, match="no node to place slots on"):
        plan(topology("aaaa", {"a": 1}, draining="a"))


@given(weights_by_name, weights_by_name, st.sampled_from([8, 64, 256]))
def test_a_plan_is_its_moves(first: dict[str, int], second: dict[str, int], slot_count: int) -> None:
    """Applied to the slot map the moves give the balance that the plan tells, with no slot named twice."""
    start = topology("-" * slot_count, first)
    owners = [move.target for move in plan(start).moves]
    assert len(owners) == slot_count
    before = topology("".join(owners), first | second)

    between = plan(before, second)
    assert between == plan(before, second)
    assert between.moved == len(between.moves) <= between.minimum * 1.02
    assert len({move.slot for move in between.moves}) == len(between.moves)
    for move in between.moves:
        assert owners[move.slot] == move.source != move.target
        owners[move.slot] = move.target
    assert {name: owners.count(name) for name in second} == {
        name: between.after.slots[name] for name in second
    }
    assert all(abs(held - between.after.shares[name]) < 1 for name, held in between.after.slots.items())
