"""The users' side of a node: takes what the owners of posts tell of edges and commits it, in the writer's turn.

What arrives within a tenth of a second, or while a transaction runs, is written by one together: several nodes tell a
few rows each at a calm hour, and a transaction costs the same whatever it carries. A row is accepted only once it is
committed behind the fence, by a node that owns the user's slot at the epoch that the sender knows: so it is before the
seal when the slot moves. Rows come more than once and late; the newest revision of an edge stands. Of a user who is
being purged none is written: all ends with that, and all that is known is deleted.

Chunks are read, folded and written back. Nobody else writes them in between: this process does so only in the writer's
turn, and after another one has, the fence is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Final

import psycopg
import structlog

from likering.shard.v1.shard_service_pb2 import OP_CODE_UNAVAILABLE, OP_CODE_UNSPECIFIED, OpCode
from shard_node import store, user_store
from shard_node.ownership import Ownership
from shard_node.store import Connection, Fence
from shard_node.user_chunks import UNLIKES_KEPT, Entry, fold
from shard_node.user_purge_marks import UserPurgeMarks
from shard_node.user_store import ToldEdge, UserChunks, UserLike
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

MOST_TOLD: Final = 2000
"""Most rows of one call."""
_MOST_AT_ONCE: Final = 500
"""Rows of one transaction, unless a single call has more: likes wait meanwhile."""
_MOST_QUEUED: Final = 20_000
GATHERING: Final = 0.1
"""Seconds that rows wait for others."""
_GOOD_BATCH: Final = 250
"""So many rows wait for no others."""
_FOLDED_AT_ONCE: Final = 100
"""Users whose chunks are folded without a pause: some milliseconds at most, callers wait meanwhile."""
_MANY_CHUNKS: Final = 64
"""Of one user: folded beside the event loop. Somebody who likes a million has 20,000."""

Codes = Sequence[OpCode.ValueType]

_ORDER = attrgetter("order")


class UserLikes:
    """The writing half of a node's ``user_likes``."""

    def __init__(self, ownership: Ownership, writer: Writer, *, enabled: bool = True) -> None:
        """``enabled``: False refuses all, so that it is told again later."""
        self._ownership = ownership
        self._writer = writer
        self._enabled = enabled
        self._queue: deque[_Unit] = deque()
        self._queued = 0
        self._many = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<UserLikes {self._queued} queued>"

    async def apply(self, rows: Sequence[ToldEdge], epochs: Sequence[int]) -> Codes:
        """Commits edges. A code per row; none at all: all are committed.

        ``epochs``: of the users' slots, as the sender knows them.
        """
        if not rows:
            return []
        if not self._enabled or self._queued + len(rows) > _MOST_QUEUED:
            return [OP_CODE_UNAVAILABLE] * len(rows)
        unit = _Unit(rows, self._ownership.slots_of([row[0] for row in rows]), epochs)
        self._queue.append(unit)
        self._queued += len(rows)
        if self._queued >= _GOOD_BATCH:
            self._many.set()
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="user likes")
        return await unit.codes

    async def _write(self) -> None:
        units: list[_Unit] = []
        try:
            while self._queue:
                with suppress(TimeoutError):
                    async with asyncio.timeout(GATHERING):
                        await self._many.wait()
                units = self._next()
                commit = _Commit(self._ownership, self._writer.user_purge_marks, units)
                try:
                    await self._writer.write(commit)
                except (psycopg.Error, ConnectionError, TimeoutError) as error:
                    log.warning("could not commit user likes", error=type(error).__name__)
                    for unit in units:
                        unit.refuse()
                else:
                    for unit, codes in zip(units, commit.codes, strict=True):
                        unit.answer(codes)
        finally:
            # Whatever ended this: nobody waits for an answer that does not come.
            self._writing = None
            for unit in (*units, *self._queue):
                unit.refuse()
            self._queue.clear()
            self._queued = 0

    def _next(self) -> list[_Unit]:
        units: list[_Unit] = []
        size = 0
        while self._queue and (not units or size + len(self._queue[0].rows) <= _MOST_AT_ONCE):
            unit = self._queue.popleft()
            size += len(unit.rows)
            units.append(unit)
        self._queued -= size
        if self._queued < _GOOD_BATCH:
            self._many.clear()
        return units


class _Unit:
    """The rows of one call, and a future of their codes."""

    def __init__(self, rows: Sequence[ToldEdge], slots: Sequence[int], epochs: Sequence[int]) -> None:
        self.rows = rows
        self.slots = slots
        self.epochs = epochs
        self.codes: asyncio.Future[Codes] = asyncio.get_running_loop().create_future()

    def refuse(self) -> None:
        """All of it: not known to be committed."""
        self.answer([OP_CODE_UNAVAILABLE] * len(self.rows))

    def answer(self, codes: Codes) -> None:
        if not self.codes.done():
            self.codes.set_result(codes)


class _Commit:
    """A job of the writer. Called again when the slots have changed, and then looks at them again."""

    def __init__(self, ownership: Ownership, purged: UserPurgeMarks, units: Sequence[_Unit]) -> None:
        self._ownership = ownership
        self._purged = purged
        self._units = units
        self.codes: list[Codes] = []

    async def __call__(self, connection: Connection, fence: Fence) -> None:
        self.codes = []
        newest: dict[tuple[str, str], UserLike] = {}
        passed_over = False
        for unit in self._units:
            refused = self._ownership.refused_writes(unit.slots, unit.epochs)
            self.codes.append(
                [refused.get(position, OP_CODE_UNSPECIFIED) for position in range(len(unit.rows))]
                if refused
                else []
            )
            for position, edge in enumerate(unit.rows):
                if position in refused:
                    continue
                if self._purged.purge(edge.user_id, unit.slots[position]):
                    passed_over = True
                    continue
                known = newest.get((edge.user_id, edge.post_id))
                if known is None or known.entry.rev < edge.rev:
                    newest[edge.user_id, edge.post_id] = UserLike(
                        edge.user_id, unit.slots[position], Entry(*edge[1:5]), edge.first
                    )
        if newest:
            await apply(connection, fence, list(newest.values()))
        elif passed_over:
            # That somebody is being purged is known for sure only while this process may write.
            await store.check_fence(await store.beat(connection, fence))


async def apply(connection: Connection, fence: Fence, likes: Sequence[UserLike]) -> None:
    """Commits edges, one of a user and post, where they are newer than what is known. Raises FenceLost."""
    oldest = time.time_ns() // 1000 - UNLIKES_KEPT
    told: dict[tuple[str, int], list[Entry]] = {}
    for like in likes:
        told.setdefault((like.user_id, like.slot), []).append(like.entry)
    stored = await user_store.read_chunks(connection, likes)
    changed: list[UserChunks] = []
    for number, ((user_id, slot), entries) in enumerate(told.items(), 1):
        # In the order of places, so that new likes come one behind the other.
        entries.sort(key=_ORDER)
        known = stored[user_id]
        if len(known) > _MANY_CHUNKS:
            chunks = await asyncio.to_thread(fold, known, entries, oldest)
        else:
            chunks = fold(known, entries, oldest)
        changed.append(UserChunks(user_id, slot, chunks))
        if not number % _FOLDED_AT_ONCE:
            await asyncio.sleep(0)
    await user_store.write_chunks(connection, fence, changed)
