"""Sweeps tombstones: deletes edges that are not liked any more, once nobody has to be told of their ends.

A tombstone stands against likes that come late, and tells those who read changes that a like has ended. After the
retention the first is over: an older like is refused then (``swept``). Of the second, the owners of users are waited
for, and consumers of the change feed are not: whoever may have missed an end is told that it has (``Feed``).

The edges of a slot are gone over by their revisions, from where the last round came to, in pages beside the reads for
callers; what is found is deleted by the writer, in its turn, some rows at a time, and it is looked again whether they
may go. How far it came, and what that may have taken with it, is in the slot's row, by the same transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.errors import LikeringError
from likering.shard.v1.shard_service_pb2 import OP_CODE_POST_BEING_PURGED
from shard_node.admin import steps
from shard_node.admin.slot_reads import SlotReads
from shard_node.arrays import int_array
from shard_node.database import within
from shard_node.maintenance import Maintenance, SlotRefused
from shard_node.ownership import Ownership
from shard_node.store import Connection, execute
from shard_node.writer import INTENT_TOLERANCE_US, Writer

log = structlog.get_logger(__name__)

PAGE: Final = 5000
"""Edges that are looked at at once: the limit that stands in the statement."""
PIECE: Final = 1000
"""Most rows of one transaction."""
REST: Final = 9.0
"""After each step it rests for so many times as long as that took: a tenth of the time is for the sweeper."""
LONGEST_INTERVAL: Final = 60.0
"""Seconds from the end of one round to the next at most."""
READ_TIMEOUT: Final = 10.0

Told = Callable[[int], int]
"""Slot → the revision up to which all owners of users have been told of its changes; 0: not known."""


class Page(NamedTuple):
    """What a look at some edges of a slot found. ``last``: revision of the last one.

    ``passed_over``: revision of the first tombstone that stays, for its unlike was repeated with a newer intent.
    """

    edges: int
    last: int
    tombstones: Sequence[int]
    passed_over: int | None


@dataclass(slots=True)
class Round:
    """How far a slot has been gone over, at one epoch, and since when a tombstone below that waits for its intent."""

    epoch: int
    position: int
    passed_over: int | None = None
    passed_over_at: int = 0

    def begin(self, now: int, retention: int) -> None:
        """Goes back to what was passed over, once its intent has become old as well. Times in µs."""
        if self.passed_over is not None and now - self.passed_over_at > retention:
            self.position = min(self.position, self.passed_over - 1)
            self.passed_over = None

    def advance(self, page: Page, until: int, now: int) -> bool:
        """Notes a page of the edges up to ``until``. Whether there are more of them."""
        if page.passed_over is not None and self.passed_over is None:
            self.passed_over, self.passed_over_at = page.passed_over, now
        more = page.edges == PAGE
        self.position = page.last if more else until
        return more


class Sweep(Maintenance):
    """Deletes tombstones of a slot by their revisions, and notes in the slot's row that it did."""

    def __init__(
        self, slot: int, epoch: int, writer: Writer, revs: Sequence[int], to: int, latest_intent: int
    ) -> None:
        """``to``: the slot has been gone over up to this revision. What has a later intent stays."""
        super().__init__(slot, epoch)
        self._writer = writer
        self._revs = revs
        self._to = to
        self._latest_intent = latest_intent
        self._swept_intent = 0
        self.swept = 0

    def admit(self, ownership: Ownership) -> None:
        super().admit(ownership)
        # A purge counts what it erases, and leaves a place for it in the feed only if that was anything.
        if self._writer.purge_marks.of_slot(self.slot) or self._writer.user_purge_marks.of_slot(self.slot):
            raise SlotRefused(OP_CODE_POST_BEING_PURGED)

    async def execute(self, connection: Connection, base_rev: int) -> None:
        cursor = await execute(
            connection,
            "sweep",
            {
                "slot": self.slot,
                "revs": int_array(self._revs),
                "to": self._to,
                "latest_intent": self._latest_intent,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.swept, self._swept_intent = row

    def committed(self) -> None:
        self._writer.swept_intents.note(self.slot, self._swept_intent)


class Sweeper:
    """Of one node. ``run`` it as a task."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        reads: SlotReads,
        writer: Writer,
        told: Told,
        retention: float,
        *,
        registry: CollectorRegistry = REGISTRY,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``retention``: seconds for which an unlike is remembered at least."""
        self._pool = pool
        self._reads = reads
        self._writer = writer
        self._told = told
        self._retention_us = round(retention * 1e6)
        self._interval = min(LONGEST_INTERVAL, retention / 10)
        self._clock_us = clock_us
        self._rounds: dict[int, Round] = {}
        self._swept = Counter(
            "likering_tombstones_swept", "Unlikes that are remembered no longer.", registry=registry
        )

    def __repr__(self) -> str:
        return f"<Sweeper of {len(self._rounds)} slots>"

    async def run(self) -> None:
        """Sweeps round after round, for as long as the task lives."""
        await self._writer.led.wait()
        while True:
            try:
                await self.round()
            except (psycopg.Error, PoolTimeout, TooManyRequests, OSError, LikeringError) as error:
                log.info("cannot sweep tombstones now", error=type(error).__name__)
            await asyncio.sleep(self._interval)

    async def round(self) -> int:
        """Goes over all slots that may be swept; returns how many tombstones went. Raises what the database raises."""
        slots = await within(READ_TIMEOUT, self._slots())
        self._rounds = {
            slot: self._known(slot, epoch) or Round(epoch, position) for slot, epoch, position in slots
        }
        swept = 0
        for slot, current in self._rounds.items():
            try:
                swept += await self._sweep(slot, current)
            except SlotRefused:
                continue  # it is leaving, or something is erased there: the next round comes
        return swept

    def _known(self, slot: int, epoch: int) -> Round | None:
        known = self._rounds.get(slot)
        return known if known is not None and known.epoch == epoch else None

    async def _slots(self) -> Sequence[tuple[int, int, int]]:
        async with self._pool.connection() as connection:
            return await (await execute(connection, "slots_to_sweep")).fetchall()

    async def _sweep(self, slot: int, current: Round) -> int:
        now = self._clock_us()
        oldest_kept = now - self._retention_us
        until = min(oldest_kept, self._told(slot))
        # Callers' clocks may be as far ahead of the revisions.
        latest_intent = oldest_kept + INTENT_TOLERANCE_US
        current.begin(now, self._retention_us)
        swept, more = 0, True
        while more and current.position < until:
            began = time.monotonic()
            page = await self._page(slot, current, until, latest_intent)
            await self._rest(began)
            to = page.last if page.edges == PAGE else until
            pieces = [page.tombstones[n : n + PIECE] for n in range(0, len(page.tombstones), PIECE)]
            if not pieces and page.edges == PAGE:
                pieces = [[]]  # so that a process that comes after this one need not look at them again
            for piece in pieces:
                began = time.monotonic()
                last = piece is pieces[-1]
                sweep = Sweep(
                    slot, current.epoch, self._writer, piece, to if last else piece[-1], latest_intent
                )
                await self._writer.maintain(sweep)
                self._swept.inc(sweep.swept)
                swept += sweep.swept
                steps.reached("swept", slot)
                await self._rest(began)
            more = current.advance(page, until, now)
        return swept

    async def _page(self, slot: int, current: Round, until: int, latest_intent: int) -> Page:
        async def read(connection: Connection) -> Page:
            cursor = await execute(
                connection,
                "tombstones",
                {"slot": slot, "after": current.position, "until": until, "latest_intent": latest_intent},
            )
            row = await cursor.fetchone()
            assert row is not None
            edges, last, tombstones, passed_over = row
            return Page(edges, last, sorted(tombstones), passed_over)

        return await self._reads.read(slot, current.epoch, read)

    async def _rest(self, since: float) -> None:
        await asyncio.sleep(REST * (time.monotonic() - since))
