"""Which planned moves may begin."""

from __future__ import annotations

from likering.topology.moves import MoveLimits, MoveState
from shard_node.handoff.mover import must_wait
from tests.parts.moves import slot_move


def test_a_move_begins_when_nothing_is_in_its_way() -> None:
    """Below the limit."""
    assert must_wait(slot_move(), {"a": 1, "b": 1}, MoveLimits(slots_at_once=2)) == ""


def test_a_pause_is_for_all() -> None:
    """But what is past its plan goes on."""
    assert must_wait(slot_move(), {}, MoveLimits(paused=True)) == "moves are paused"
    assert must_wait(slot_move(MoveState.COMMITTED), {}, MoveLimits(paused=True)) == ""


def test_a_busy_node_is_named() -> None:
    """As source or as target of others."""
    limits = MoveLimits(slots_at_once=1)
    assert "node a " in must_wait(slot_move(), {"a": 1, "c": 1}, limits)
    assert "node b " in must_wait(slot_move(), {"b": 1, "c": 1}, limits)
    assert must_wait(slot_move(source="d", target="e"), {"a": 1, "b": 1}, limits) == ""
