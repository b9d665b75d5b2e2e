"""Bounds how many bytes of large requests are being served at once; the others wait their turn as the bytes they are.

A parsed request of a thousand likes takes ten times its bytes, in thousands of objects: with 256 such calls being
served at once the processor's caches were of no use any more, and each like cost half as much again as with 64.
"""

from __future__ import annotations

import asyncio
from collections import deque

from likering.errors import RouterOverloaded

_RETRY_SECONDS = 0.25


class Admission:
    """Turns for large requests, first come, first served. Lives on one event loop."""

    def __init__(
        self, *, large: int = 4096, served: int = 2 * 1024 * 1024, waiting: int = 64 * 1024 * 1024
    ) -> None:
        """In bytes: above which a request needs a turn, how much is served at once, and how much may wait."""
        self.large = large
        self._served_limit = served
        self._waiting_limit = waiting
        self._served = 0
        self._waiting = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Admission {self._served} bytes served, {self._waiting} waiting>"

    async def enter(self, size: int) -> None:
        """Waits for a turn; ``leave`` must follow. Raises RouterOverloaded when too much waits already."""
        if not self._queue and self._fits(size):
            self._served += size
            return
        if self._waiting + size > self._waiting_limit:
            raise RouterOverloaded(retry_after=_RETRY_SECONDS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._waiting += size
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():  # still in the queue, where it is passed over
                self._admit()
            else:
                self.leave(size)  # the turn came in the very tick of the cancellation
            raise

    def leave(self, size: int) -> None:
        """Ends a turn."""
        self._served -= size
        self._admit()

    def _fits(self, size: int) -> bool:
        return not self._served or self._served + size <= self._served_limit

    def _admit(self) -> None:
        while self._queue:
            size, turn = self._queue[0]
            if not turn.done():
                if not self._fits(size):
                    return
                self._served += size
                turn.set_result(None)
            self._queue.popleft()
            self._waiting -= size
