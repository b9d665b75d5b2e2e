"""When gathered operations are sent: at once while calls come one by one, and in a lull when many come together.

Under load calls trickle in over many loop ticks, since that is how grpc.aio accepts them. Sent at the end of each
tick, a batch had two operations and cost more than they did. So once a sending had the operations of several calls,
the next one waits for a lull: a millisecond or more without an arrival, or ``LONGEST``. It sleeps meanwhile and leaves
the CPU to those who bring more calls. A caller alone is sent for at the end of the tick.
docs/decisions/0007-gathering.md has figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

FEW: Final = 2
"""Calls of one sending up to which the next one does not wait."""
SHORTEST_LULL: Final = 0.001
LONGEST_LULL: Final = 0.02
"""Seconds without an arrival after which what has gathered is sent. Timers have no finer resolution than the first."""
LULL_OF_BATCH: Final = 0.5
"""The lull, as a part of the time that a batch takes."""
LONGEST: Final = 0.025
"""Seconds after which is sent even though calls keep arriving, or after the time of a batch, if that is longer."""
LONGEST_OF_ALL: Final = 0.1


class Pace:
    """Shared by all lanes of a router worker: an arrival for one node is a sign of arrivals for the others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[Callable[[], int]] = []
        self._arrivals = 0
        self._seen = 0
        self._sent_last = 0
        self._latest = 0.0
        self._batch_seconds = 0.0

    def __repr__(self) -> str:
        return (
            f"<Pace {len(self._due)} lanes due, {self._sent_last} calls sent last, lull {self._lull:.3f} s>"
        )

    @property
    def _lull(self) -> float:
        return min(max(LULL_OF_BATCH * self._batch_seconds, SHORTEST_LULL), LONGEST_LULL)

    @property
    def _longest(self) -> float:
        # Batches take long where the CPU is short, and larger ones need less of it.
        return min(max(self._batch_seconds, LONGEST), LONGEST_OF_ALL)

    def took(self, seconds: float) -> None:
        """A batch was answered after so long. The lull follows the mean of the last ten or so."""
        self._batch_seconds += 0.1 * (seconds - self._batch_seconds)

    def arrived(self) -> None:
        """Something was gathered."""
        self._arrivals += 1

    def due(self, send: Callable[[], int]) -> None:
        """Calls ``send`` once, when it is time; it returns how many calls' operations it sent."""
        if not self._due:
            if self._sent_last <= FEW:
                self._loop.call_soon(self._send)
            else:
                self._latest = monotonic() + self._longest
                self._wait()
        self._due.append(send)

    def _wait(self) -> None:
        self._seen = self._arrivals
        self._loop.call_later(self._lull, self._look)

    def _look(self) -> None:
        if self._arrivals != self._seen and monotonic() < self._latest:
            self._wait()
        else:
            self._send()

    def _send(self) -> None:
        due, self._due = self._due, []
        self._sent_last = sum(send() for send in due)
