"""Gathers operations into batches without timers: sends at once when idle, gathers only while batches travel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from likering.errors import DeadlineExceeded, InternalError, LikeringError

_PATIENCE: Final = 0.25
"""Seconds after which a batch no longer counts as travelling: one dead shard must not stop those behind it."""
_MOST_OVERDUE: Final = 16
"""So many batches may be overdue at once; with more, the next ones wait after all."""


class Batch(Protocol):
    """Operations that travel together."""

    @property
    def full(self) -> bool:
        """Whether it takes no more."""

    async def send(self, timeout: float) -> None:
        """Carries the operations out within ``timeout`` seconds and answers each of them."""

    def fail(self, error: LikeringError) -> None:
        """Answers all operations that have no answer yet."""


B = TypeVar("B", bound=Batch)


class Lane(Generic[B]):
    """Batches of one kind on their way. Belongs to one event loop.

    The operations of one tick of the loop leave together at its end while fewer than ``limit`` batches travel;
    otherwise they leave when one returns. The deadline of a batch is ``timeout`` seconds after its first operation,
    waiting included.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, new_batch: Callable[[], B], *, limit: int, timeout: float
    ) -> None:
        self._loop = loop
        self._new_batch = new_batch
        self._limit = limit
        self._timeout = timeout
        # All state: batches not yet sent with their deadlines, of which the last one may be gathering still; how many
        # count as travelling, and how many do so no longer; what runs.
        self._waiting: deque[tuple[float, B]] = deque()
        self._gathering: B | None = None
        self._travelling = 0
        self._overdue = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._departure: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Lane({len(self._waiting)} waiting, {self._travelling} travelling, {self._overdue} overdue)"

    def batch(self) -> B:
        """The batch that the next operation belongs to. Whoever asks adds one."""
        batch = self._gathering
        if batch is not None and not batch.full:
            return batch
        self._gathering = batch = self._new_batch()
        self._waiting.append((self._loop.time() + self._timeout, batch))
        if self._travelling < self._limit and self._departure is None:
            self._departure = self._loop.call_soon(self._depart)
        return batch

    async def drain(self) -> None:
        """Returns when every operation has its answer."""
        while self._flights or self._waiting:
            if self._flights:
                await asyncio.wait(self._flights)
            else:  # the departure is due in this very tick
                await asyncio.sleep(0)

    def _depart(self) -> None:
        self._departure = None
        while self._waiting and self._travelling < self._limit:
            deadline, batch = self._waiting.popleft()
            if batch is self._gathering:
                self._gathering = None
            flight = self._loop.create_task(self._fly(batch, deadline - self._loop.time()))
            self._travelling += 1
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        if self._waiting and self._expiry is None:
            self._expiry = self._loop.call_at(self._waiting[0][0], self._expire)

    async def _fly(self, batch: B, timeout: float) -> None:
        overdue = False

        def give_way() -> None:
            nonlocal overdue
            if self._overdue < _MOST_OVERDUE:
                overdue = True
                self._overdue += 1
                self._travelling -= 1
                self._depart()

        patience = self._loop.call_later(_PATIENCE, give_way)
        try:
            await batch.send(timeout)
        finally:
            patience.cancel()
            if overdue:
                self._overdue -= 1
            else:
                self._travelling -= 1
            # Only what ``send`` did not answer: it was cancelled with its event loop, or has a bug that the loop
            # reports. Nobody is left waiting for ever.
            batch.fail(InternalError("The batch was given up"))
            self._depart()

    def _expire(self) -> None:
        self._expiry = None
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, batch = self._waiting.popleft()
            if batch is self._gathering:
                self._gathering = None
            batch.fail(DeadlineExceeded("The deadline passed before the call could be sent"))
        if self._waiting:
            self._expiry = self._loop.call_at(self._waiting[0][0], self._expire)
