"""What becomes of a move when one of its nodes is lost for good."""

from __future__ import annotations

import pytest

from likering.topology.lost_nodes import end_of
from likering.topology.moves import ENDED, NEXT, UNCOMMITTED, MoveState
from tests.parts.moves import slot_move

SOURCE, TARGET = slot_move().source, slot_move().target


@pytest.mark.parametrize("lost", [SOURCE, TARGET])
@pytest.mark.parametrize("state", sorted(UNCOMMITTED))
def test_what_is_uncommitted_is_cancelled(state: MoveState, lost: str) -> None:
    """The slot stays with the source, there or not."""
    assert end_of(slot_move(state), lost) is MoveState.CANCELLED


@pytest.mark.parametrize(
    ("state", "source_lost", "target_lost"),
    [
        (MoveState.COMMITTED, MoveState.COMMITTED, MoveState.REVERTED),
        (MoveState.ACTIVATING, MoveState.ACTIVATING, MoveState.REVERTED),
        (MoveState.ACTIVE, MoveState.RETIRED, MoveState.RETIRED),
        (MoveState.MOVED, MoveState.RETIRED, MoveState.RETIRED),
        (MoveState.VERIFIED, MoveState.RETIRED, MoveState.VERIFIED),
    ],
)
def test_from_the_commit_on_it_depends_on_who_is_lost(
    state: MoveState, source_lost: MoveState, target_lost: MoveState
) -> None:
    """A target needs no source to begin to serve; a source that drops its copy needs no target."""
    assert end_of(slot_move(state), SOURCE) is source_lost
    assert end_of(slot_move(state), TARGET) is target_lost


@pytest.mark.parametrize("lost", [SOURCE, TARGET])
@pytest.mark.parametrize("state", MoveState)
def test_every_end_is_a_way_that_there_is(state: MoveState, lost: str) -> None:
    end = end_of(slot_move(state), lost)
    assert end is state or (end in NEXT[state] and end in ENDED)
