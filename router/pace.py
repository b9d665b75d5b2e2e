"""When gathered operations are sent: as soon as no more arrive, which on an idle router is at once.

Under load calls trickle in one by one, some loop ticks apart, since that is how grpc.aio accepts them. Sent at the end
of each tick, a batch had two operations and cost more than they did; waiting for some ticks without an arrival makes it
thirty. How many ticks follows from how much was gathered last, so one caller alone waits for one, some 10 µs, and a
router whose loop is never idle gathers for ``LONGEST``. There is no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

TICKS_PER_CALL: Final = 8
MOST_TICKS: Final = 256
LONGEST: Final = 0.025
"""Seconds after which is sent even though calls keep arriving."""


class Pace:
    """Shared by all lanes of a router worker: an arrival for one node is a sign of arrivals for the others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[Callable[[], int]] = []
        self._quiet = 0
        self._patience = 1
        self._latest = 0.0

    def __repr__(self) -> str:
        return f"<Pace {len(self._due)} lanes due, patience {self._patience} ticks>"

    def arrived(self) -> None:
        """Something was gathered."""
        self._quiet = 0

    def due(self, send: Callable[[], int]) -> None:
        """Calls ``send`` once, when it is time; it returns how many calls' operations it sent."""
        if not self._due:
            self._quiet = 0
            self._latest = monotonic() + LONGEST
            self._loop.call_soon(self._tick)
        self._due.append(send)

    def _tick(self) -> None:
        self._quiet += 1
        if self._quiet < self._patience and monotonic() < self._latest:
            self._loop.call_soon(self._tick)
            return
        due, self._due = self._due, []
        calls = sum(send() for send in due)
        self._patience = min(1 + TICKS_PER_CALL * (calls - 1), MOST_TICKS)
