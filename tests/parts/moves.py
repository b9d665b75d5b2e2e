"""Moves as the store gives them, for tests of what reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from likering.topology.moves import MoveState, SlotMove

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def slot_move(state: MoveState = MoveState.PLANNED, **other: Any) -> SlotMove:
    """Move 7 of slot 3 from a to b, of which its node spoke 0.1 s ago and that has been in its state for 2 s."""
    word_age, state_age = other.get("word_age", 0.1), other.get("state_age", 2.0)
    values = {
        "move": 7,
        "resize": 1,
        "slot": 3,
        "source": "a",
        "target": "b",
        "epoch": 1,
        "attempt": 1,
        "state": state,
        "state_since": NOW - timedelta(seconds=state_age),
        "created_at": NOW - timedelta(minutes=1),
        "rows_total": 0,
        "rows_copied": 0,
        "lag_us": None,
        "pause_us": None,
        "last_rev": None,
        "waits_for": "",
        "waits_since": None,
        "last_error": "",
        "word_at": NOW - timedelta(seconds=word_age),
        "word_age": word_age,
        "state_age": state_age,
    }
    return SlotMove(**{**values, **other})
