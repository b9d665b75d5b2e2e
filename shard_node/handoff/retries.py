"""When a move that did not get on is looked at again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from likering.topology.moves import MoveState, SlotMove

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Seconds before a move that failed is tried again: doubled with each failure, up to this."""
UNSERVED = frozenset((MoveState.COMMITTED, MoveState.ACTIVATING))
"""Callers wait for these, however often the move has failed before."""

_MOST_DOUBLINGS = 5


class Retries:
    """What has failed of one node's moves, and when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[int, tuple[int, float]] = {}

    def __repr__(self) -> str:
        return f"<Retries of {len(self._failures)} moves>"

    def failed(self, move: int) -> None:
        """The move did not get on, just now."""
        failures, _ = self._failures.get(move, (0, 0.0))
        self._failures[move] = (failures + 1, self._clock())

    def may_try(self, move: SlotMove) -> bool:
        """Whether it has been left alone for long enough."""
        if move.move not in self._failures:
            return True
        failures, failed_at = self._failures[move.move]
        pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), LONGEST_PAUSE)
        return self._clock() >= failed_at + (FIRST_PAUSE if move.state in UNSERVED else pause)

    def keep(self, moves: Collection[int]) -> None:
        """Forgets all moves but these."""
        self._failures = {move: failed for move, failed in self._failures.items() if move in moves}
