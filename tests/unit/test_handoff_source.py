"""What becomes of a frozen slot: only what the topology says lets it go on."""

from __future__ import annotations

import pytest

from likering.topology.moves import MoveState
from shard_node.handoff.source import SILENCE, Fate, fate
from shard_node.ownership import HeldSlot, SlotState
from tests.parts.moves import slot_move

FROZEN = HeldSlot(5, SlotState.FROZEN, move=7, attempt=2)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (MoveState.PLANNED, Fate.WAIT),
        (MoveState.COPYING, Fate.WAIT),
        (MoveState.CATCHING_UP, Fate.WAIT),
        (MoveState.FREEZING, Fate.WAIT),
        (MoveState.ABORTED, Fate.GO_ON),
        (MoveState.COMMITTED, Fate.WAIT),
        (MoveState.ACTIVATING, Fate.WAIT),
        (MoveState.ACTIVE, Fate.SET_ASIDE),
        (MoveState.MOVED, Fate.SET_ASIDE),
        (MoveState.VERIFIED, Fate.SET_ASIDE),
        (MoveState.RETIRED, Fate.SET_ASIDE),
        (MoveState.CANCELLED, Fate.GO_ON),
        (MoveState.REVERTED, Fate.GO_ON_REVERTED),
    ],
)
def test_every_state_has_its_fate(state: MoveState, expected: Fate) -> None:
    """For the attempt that froze the slot, while the target is heard."""
    assert fate(FROZEN, slot_move(state, attempt=2), 0.0) is expected


def test_nothing_is_known_of_an_unknown_move() -> None:
    """A topology that forgot something is no reason to write."""
    assert fate(FROZEN, None, float("inf")) is Fate.WAIT


def test_a_silent_target_is_asked_about_never_overruled() -> None:
    """Silence alone never lets a slot go on; once committed it changes nothing at all."""
    assert fate(FROZEN, slot_move(MoveState.FREEZING, attempt=2), SILENCE + 0.1) is Fate.ASK_FOR_THE_END
    for state in (MoveState.COMMITTED, MoveState.ACTIVATING):
        assert fate(FROZEN, slot_move(state, attempt=2), float("inf")) is Fate.WAIT


UNCOMMITTED = [
    MoveState.PLANNED,
    MoveState.COPYING,
    MoveState.CATCHING_UP,
    MoveState.FREEZING,
    MoveState.ABORTED,
]


@pytest.mark.parametrize("state", UNCOMMITTED)
def test_a_later_attempt_ends_the_freeze_of_an_earlier_one(state: MoveState) -> None:
    """The later one freezes the slot itself."""
    assert fate(FROZEN, slot_move(state, attempt=3), 0.0) is Fate.GO_ON


@pytest.mark.parametrize("state", UNCOMMITTED)
def test_an_answer_of_before_the_freeze_ends_nothing(state: MoveState) -> None:
    """It may arrive after the freeze; the attempt that froze the slot may commit meanwhile."""
    assert fate(FROZEN, slot_move(state, attempt=1), float("inf")) is Fate.WAIT


def test_a_commit_of_any_attempt_keeps_the_slot_frozen() -> None:
    """A late request of a dead attempt may have left its number in the row: the commit counts, not the number."""
    assert fate(FROZEN, slot_move(MoveState.COMMITTED, attempt=3), float("inf")) is Fate.WAIT
    assert fate(FROZEN, slot_move(MoveState.ACTIVE, attempt=3), float("inf")) is Fate.SET_ASIDE
