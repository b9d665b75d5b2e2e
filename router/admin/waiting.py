"""Why a move does not go on, and which command helps: from what nodes say of it, and from what they do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from likering.topology.moves import ENDED, MoveLimits, MoveState, SlotMove
from likering.topology.wait_reasons import PAUSED, RESUME, START, remedy

SILENT_SECONDS: Final = 5.0
"""A node that is to act says something about its moves more often than this."""
_OF_THE_TRANSITION: Final = 1.0
"""A word so many seconds after a transition at most may be its own; signs come later, and again and again."""
_RETIRING_SECONDS: Final = 30.0
"""How long after the grace period a source may take to drop its copy."""

_HELD_BY_PAUSE = frozenset((MoveState.PLANNED, MoveState.CATCHING_UP, MoveState.ABORTED))
_PAST_REVERTING = frozenset((MoveState.ACTIVATING, MoveState.ACTIVE, MoveState.MOVED))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a move waits and since when. ``command`` is what helps, empty when only time does."""

    reason: str
    since: datetime
    command: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """When a node last said something about any of the moves in which it is to act, and how many seconds ago."""

    at: datetime
    age: float


def last_words(moves: Iterable[SlotMove]) -> dict[str, Word]:
    """By node. A node works through its moves in turn, so a move alone does not tell whether it is alive."""
    words: dict[str, Word] = {}
    for move in moves:
        name = move.actor
        if name is not None and (name not in words or move.word_age < words[name].age):
            words[name] = Word(move.word_at, move.word_age)
    return words


def last_sign(moves: Iterable[SlotMove], name: str) -> float | None:
    """Seconds since the node has said something about a move in which it is to act; None: it has not.

    A transition is no such sign: the other node may have made it.
    """
    ages = [
        move.word_age
        for move in moves
        if move.actor == name and move.state_age - move.word_age > _OF_THE_TRANSITION
    ]
    return min(ages, default=None)


def waiting(move: SlotMove, limits: MoveLimits, words: Mapping[str, Word]) -> Waiting | None:
    """Why the move waits, None when it does not. ``words``: of all moves that have not ended."""
    name = move.actor
    if name is None:
        return None
    if move.state is MoveState.VERIFIED:
        return _waiting_to_retire(move, limits)
    if limits.paused and move.state in _HELD_BY_PAUSE:
        return Waiting(PAUSED, move.waits_since or move.state_since, RESUME)
    word = words.get(name) or Word(move.word_at, move.word_age)
    if word.age > SILENT_SECONDS:
        command = f"start node {name}"
        if move.state is MoveState.COMMITTED:
            command += f", or if it is gone for good: likering ring revert-slot {move.slot}"
        elif move.state in _PAST_REVERTING:
            command += f", or if it is gone for good: likering ring cancel --lost {name}"
        return Waiting(f"node {name} has given no sign for {word.age:.0f} s", word.at, command)
    if not move.waits_for:
        if move.state is not MoveState.PLANNED:
            return None
        if move.last_error:
            return Waiting(f"it is tried again, after: {move.last_error}", move.state_since)
        return Waiting(f"other moves to node {name} come first", move.state_since)
    command = remedy(move.waits_for)
    if move.state is MoveState.MOVED and command == START:
        command += f", or if it is gone for good: likering ring cancel --lost {move.source}"
    return Waiting(move.waits_for, move.waits_since or move.word_at, command)


def copy_eta(move: SlotMove) -> float:
    """Seconds until the rows are copied, by the speed so far; 0 once they are, -1 when it is not known."""
    if move.state in (MoveState.PLANNED, MoveState.ABORTED) or move.state in ENDED:
        return -1.0
    if move.state is not MoveState.COPYING:
        return 0.0
    if not move.rows_copied or not move.rows_total or move.state_age <= 0:
        return -1.0
    return max(0, move.rows_total - move.rows_copied) * move.state_age / move.rows_copied


def _waiting_to_retire(move: SlotMove, limits: MoveLimits) -> Waiting | None:
    """Keeping the copy for the grace period is as it should be; keeping it longer is not."""
    late = move.state_age - limits.grace_seconds
    if late <= _RETIRING_SECONDS:
        return None
    return Waiting(
        f"node {move.source} should have dropped its copy {late:.0f} s ago",
        move.state_since + timedelta(seconds=limits.grace_seconds),
        f"start node {move.source}, or if it is gone for good: likering ring cancel --lost {move.source}",
    )
