"""Limits how many rows a second are copied, or looked at; the limit may change at any time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class RowBudget:
    """So many rows a second, for all who take from it together; a second's worth may be saved up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = 0
        self._saved = 0.0
        self._at = clock()

    def limit(self, rows_per_second: int) -> None:
        """Changes the limit; 0 is none."""
        self._refill()
        self._rate = rows_per_second
        self._saved = min(self._saved, float(rows_per_second))

    async def take(self, rows: int) -> None:
        """Waits until so many rows may be taken."""
        if not self._rate:
            return
        self._refill()
        self._saved -= rows
        while self._saved < 0 and self._rate:
            # In short steps: the limit may be raised meanwhile.
            await asyncio.sleep(min(-self._saved / self._rate, 0.25))
            self._refill()

    def _refill(self) -> None:
        now = self._clock()
        self._saved = min(self._saved + (now - self._at) * self._rate, float(self._rate))
        self._at = now
