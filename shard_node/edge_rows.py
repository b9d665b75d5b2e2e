"""Edges as their rows have them: what follows from the rest of a row is NULL there, and takes no room.

- ``intent``: NULL where it is the time of the like, that is ``liked_at``, or the revision.
- ``first_rev``: NULL where a like's is its revision. A tombstone's is NULL only if the edge was never liked.

So each state of an edge has one row, and each row one state. Statements that read some of it say the same in SQL:
``coalesce(intent, liked_at, rev)`` and ``coalesce(first_rev, CASE WHEN liked THEN rev END)``.
"""

from __future__ import annotations

from typing import NamedTuple

from shard_node.fold import EdgeState


class EdgeRow(NamedTuple):
    """The columns of an edge besides its key."""

    rev: int
    intent: int | None
    first_rev: int | None
    liked_at: int | None
    liked: bool


def row_of(state: EdgeState) -> EdgeRow:
    """The row of a state."""
    like_time = state.rev if state.liked_at is None else state.liked_at
    first_is_last = state.liked and state.first_rev == state.rev
    return EdgeRow(
        state.rev,
        None if state.intent == like_time else state.intent,
        None if first_is_last else state.first_rev,
        state.liked_at,
        state.liked,
    )


def state_of(slot: int, row: EdgeRow) -> EdgeState:
    """The state of a row in a slot."""
    rev, intent, first_rev, liked_at, liked = row
    if intent is None:
        intent = rev if liked_at is None else liked_at
    if first_rev is None and liked:
        first_rev = rev
    return EdgeState(slot, liked, rev, intent, first_rev, liked_at)
