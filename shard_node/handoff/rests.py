"""How long nodes rest between the steps of a move, and a target after it: callers come first, where there are any.

A move is work that nobody waits for. On machines that are busy with callers it is done in small portions with pauses
between them; where nobody calls, at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

AFTER_STEP = 2.0
"""The rest after a step of a copy, as a part of the time that the step took."""
MOST_AFTER_STEP = 0.2
AFTER_MOVE = 3.0
"""The rest after a move, as a part of the time that it took."""
MOST_AFTER_MOVE = 3.0


class Rests:
    """Of one move, on one node. ``in_use``: whether callers use the nodes whose rest it is just now."""

    def __init__(
        self,
        in_use: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._in_use = in_use
        self._clock = clock
        self._sleep = sleep
        self._began = self._step_began = clock()

    def __repr__(self) -> str:
        return f"<Rests, {'in use' if self._in_use() else 'unused'}>"

    async def after_step(self) -> None:
        """Rests after a step, which began when the one before had been rested for."""
        if self._in_use():
            await self._sleep(min(AFTER_STEP * (self._clock() - self._step_began), MOST_AFTER_STEP))
        self._step_began = self._clock()

    @property
    def after_move(self) -> float:
        """Seconds in which no other move should begin, if this one is done now."""
        return min(AFTER_MOVE * (self._clock() - self._began), MOST_AFTER_MOVE) if self._in_use() else 0.0
