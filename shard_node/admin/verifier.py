"""Proves a node's counts in the background: compares them with its likes, slowly, slot after slot, round after round.

Each look is one statement over some thousand rows, on a connection for reads: no snapshot lives longer, and the writer
is not asked. What it finds is told by metrics and the log; mending is for operators (``likering counts repair``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Never

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from shard_node.admin.count_rounds import CountRounds, SlotRound
from shard_node.admin.counts import Counts, Piece
from shard_node.arrays import bool_array, int_array, nullable_int_array
from shard_node.database import within
from shard_node.maintenance import SlotRefused
from shard_node.ownership import Ownership
from shard_node.row_budget import RowBudget
from shard_node.store import Connection, execute
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

PIECE_ROWS: Final = 20_000
"""Posts or likes of one look, unless the rate asks for fewer."""
PIECES_PER_SECOND: Final = 4
"""Into so many looks at least a second's rows are divided: so that it is no burst."""
REST: Final = 9.0
"""After each look it rests for so many times as long as that took: at most a tenth of the time, whatever the rate."""
LOOK: Final = 1.0
"""Seconds until it is looked again whether there is anything to do."""
PUT_OFF: Final = 30.0
"""Seconds for which a slot is left alone that could not be looked at: it may be moving, or the database away."""
NOTE: Final = 10.0
"""Seconds after which it is written down again how far it has come."""
TIMEOUT: Final = 5.0
TOLD_AT_ONCE: Final = 5
"""Wrong counts of one look that the log names. ``likering counts verify`` lists all."""


class Verifier:
    """Of one node. ``run`` it as a task."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        counts: Counts,
        ownership: Ownership,
        writer: Writer,
        interval: float,
        *,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``interval``: see CountRounds, in seconds. Until it is told a ``limit``, nothing is compared."""
        self._pool = pool
        self._counts = counts
        self._ownership = ownership
        self._writer = writer
        self._rate = 0
        self._interval = round(interval * 1e6)
        self._clock_us = clock_us
        self._budget = RowBudget()
        self._rounds: CountRounds | None = None
        self._followed: Mapping[int, int] | None = None
        self._noted_at = 0.0

    def __repr__(self) -> str:
        return f"<Verifier {self._rounds!r}>"

    @property
    def verified_since(self) -> int | None:
        """Each count of the node was compared then (µs since 1970) or later. None: not known, or it has no slots."""
        return self._rounds.verified_since if self._rounds is not None else None

    def limit(self, rows_per_second: int) -> None:
        """Compares so many rows a second from now on; 0: none."""
        self._rate = rows_per_second
        self._budget.limit(rows_per_second)

    async def run(self) -> Never:
        """Compares for as long as the task lives."""
        await self._writer.led.wait()
        while True:
            try:
                compared = await self.step()
            except (psycopg.Error, PoolTimeout, TooManyRequests, OSError) as error:
                log.info("cannot compare counts now", error=type(error).__name__)
                compared = False
            if not compared:
                await asyncio.sleep(LOOK)

    async def step(self) -> bool:
        """One look, and the rest after it. False: there was nothing to look at. Raises what the database raises."""
        rounds = await self._up_to_date()
        now = self._clock_us()
        slot = rounds.next(self._ownership.owned, now) if self._rate else None
        if slot is None:
            return False
        began, one = time.monotonic(), rounds.take_up(slot, now)
        try:
            piece = await self._look(slot, one)
        except SlotRefused:
            rounds.put_off(slot, now + round(PUT_OFF * 1e6))
            await self._rest(began)
            return False
        if one.post_no == one.end:
            rounds.done(slot)
        if one.began is None or piece.drifts or began - self._noted_at > NOTE:
            await self._write({slot: one})
            self._noted_at = began
        await self._rest(began)
        await self._budget.take(piece.posts + piece.likes)
        return True

    async def _rest(self, since: float) -> None:
        await asyncio.sleep(REST * (time.monotonic() - since))

    async def _up_to_date(self) -> CountRounds:
        """The rounds of the slots that the node has now."""
        rounds = self._rounds
        if rounds is None:
            rounds = CountRounds(await within(TIMEOUT, self._read()), self._interval)
        epochs = self._ownership.epochs
        if epochs is not self._followed:
            new = rounds.follow(epochs, self._clock_us())
            self._rounds, self._followed = rounds, epochs
            await self._write(new)
        return rounds

    async def _look(self, slot: int, one: SlotRound) -> Piece:
        """Compares some posts, and notes how far that came. Raises SlotRefused."""
        if one.end is None:
            # Posts that come later belong to the next round: else this one might never end.
            one.end = await self._counts.last_number(slot, one.epoch)
        limit = max(1, min(PIECE_ROWS, self._rate // PIECES_PER_SECOND))
        piece = await self._counts.verify(slot, one.epoch, one.post_no, limit)
        one.post_no = one.end if piece.last is None else min(piece.last, one.end)
        if piece.drifts:
            one.found = True
            log.error(
                "counts are not the numbers of likes",
                slot=slot,
                posts=len(piece.drifts),
                first=[drift._asdict() for drift in piece.drifts[:TOLD_AT_ONCE]],
            )
        return piece

    async def _read(self) -> dict[int, SlotRound]:
        async with self._pool.connection() as connection:
            cursor = await execute(connection, "read_count_rounds")
            return {slot: SlotRound(*values) for slot, *values in await cursor.fetchall()}

    async def _write(self, rounds: Mapping[int, SlotRound]) -> None:
        if rounds:
            await within(TIMEOUT, self._upsert(rounds))

    async def _upsert(self, rounds: Mapping[int, SlotRound]) -> None:
        parameters = {
            "slots": int_array(list(rounds)),
            "epochs": int_array([one.epoch for one in rounds.values()]),
            "verified_at": int_array([one.verified_at for one in rounds.values()]),
            "drifted": bool_array([one.drifted or one.found for one in rounds.values()]),
            "began": nullable_int_array([one.began for one in rounds.values()]),
            "post_nos": int_array([one.post_no for one in rounds.values()]),
        }
        async with self._pool.connection() as connection, connection.transaction():
            # Should it be lost, some posts are compared once more: not worth a flush, or a wait for a standby.
            await connection.execute("SET LOCAL synchronous_commit = off")
            await execute(connection, "write_count_rounds", parameters)
