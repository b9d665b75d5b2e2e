"""Moves as a store would give them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from likering.topology.moves import MoveState, SlotMove

_THEN = datetime(2026, 1, 1, tzinfo=UTC)
_PLANNED = SlotMove(
    move=7,
    resize=1,
    slot=3,
    source="a",
    target="b",
    epoch=5,
    attempt=1,
    state=MoveState.PLANNED,
    state_since=_THEN,
    created_at=_THEN,
    rows_total=0,
    rows_copied=0,
    lag_us=None,
    pause_us=None,
    last_rev=None,
    waits_for="",
    waits_since=None,
    last_error="",
    word_at=_THEN,
    state_age=0.0,
    word_age=0.0,
)


def slot_move(state: MoveState = MoveState.PLANNED, **changes: Any) -> SlotMove:
    """Move 7 of slot 3 from a to b at epoch 5, unless something else is said."""
    return replace(_PLANNED, state=state, **changes)
