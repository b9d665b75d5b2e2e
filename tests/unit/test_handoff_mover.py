"""Which planned moves may begin."""

from __future__ import annotations

from likering.topology.moves import MoveLimits, MoveState
from shard_node.handoff.mover import must_wait
from tests.parts.moves import slot_move


def test_a_move_begins_when_nothing_is_in_its_way() -> None:
    """Others may wait as well."""
    assert must_wait(slot_move(), [slot_move(), slot_move(move=8)], MoveLimits()) == ""


def test_a_pause_is_for_all() -> None:
    """But what is past its plan goes on."""
    assert must_wait(slot_move(), [], MoveLimits(paused=True)) == "moves are paused"
    assert must_wait(slot_move(MoveState.COMMITTED), [], MoveLimits(paused=True)) == ""


def test_a_busy_node_is_named() -> None:
    """As source or as target of others."""
    limits = MoveLimits(slots_at_once=1)
    busy_source = slot_move(MoveState.COPYING, move=8, target="c")
    busy_target = slot_move(MoveState.FREEZING, move=9, source="c")
    assert "node a " in must_wait(slot_move(), [busy_source], limits)
    assert "node b " in must_wait(slot_move(), [busy_target], limits)
    assert must_wait(slot_move(source="d", target="e"), [busy_source, busy_target], limits) == ""


def test_a_slot_that_is_served_holds_up_nobody() -> None:
    """What is left of its move costs next to nothing."""
    done = slot_move(MoveState.ACTIVE, move=8)
    assert must_wait(slot_move(), [done], MoveLimits(slots_at_once=1)) == ""
