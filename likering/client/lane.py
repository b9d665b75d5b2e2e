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
        # All state: the batch that takes operations; batches not yet sent with their deadlines, that one being the
        # last; how many count as travelling, and how many do so no longer; what runs.
        self.gathering: B | None = None
        self._waiting: deque[tuple[float, B]] = deque()
        self._travelling = 0
        self._overdue = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._departure: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Lane({len(self._waiting)} waiting, {self._travelling} travelling, {self._overdue} overdue)"

    def open(self) -> B:
        """A new batch in ``gathering``, if there is none. Whoever calls adds an operation to it."""
        self.gathering = batch = self._new_batch()
        self._waiting.append((self._loop.time() + self._timeout, batch))
        if self._travelling >= self._limit:
            self._watch_deadlines()
        elif self._departure is None:
            self._departure = self._loop.call_soon(self._depart)
        return batch

    def seal(self) -> None:
        """The batch in ``gathering`` is full."""
        self.gathering = None

    async def drain(self) -> None:
        """Returns when every operation has its answer."""
        while self._flights or self._waiting:
            if self._flights:
                await asyncio.wait(self._flights)
            else:  # the departure is due in this very tick
                await asyncio.sleep(0)

    def _depart(self) -> None:
        self._departure = None
        self._expire()
        while self._waiting and self._travelling < self._limit:
            deadline, batch = self._waiting.popleft()
            if batch is self.gathering:
                self.gathering = None
            flight = self._loop.create_task(self._fly(batch, deadline - self._loop.time()))
            self._travelling += 1
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        self._watch_deadlines()

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
        except asyncio.CancelledError:
            # Nobody but the event loop cancels a flight, when it ends: no other batch may depart.
            self._limit = 0
            raise
        finally:
            patience.cancel()
            if overdue:
                self._overdue -= 1
            else:
                self._travelling -= 1
            # Only what ``send`` did not answer: it was cancelled, or has a bug that the loop reports. Nobody is left
            # waiting for ever.
            batch.fail(InternalError("The batch was given up"))
            self._depart()

    def _watch_deadlines(self) -> None:
        if self._waiting and self._expiry is None:
            self._expiry = self._loop.call_at(self._waiting[0][0], self._wake)

    def _wake(self) -> None:
        self._expiry = None
        self._expire()
        self._watch_deadlines()

    def _expire(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, batch = self._waiting.popleft()
            if batch is self.gathering:
                self.gathering = None
            batch.fail(DeadlineExceeded("The deadline passed before the call could be sent"))
