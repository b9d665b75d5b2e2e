"""Answers reads: counts through the cache, likes from the database, both as fresh as the caller wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.serving import tracing
from likering.serving.tracing import Span
from likering.serving.trail import trail_of_call
from likering.shard.v1.shard_service_pb2 import (
    COUNT_SOURCE_CACHE,
    COUNT_SOURCE_DATABASE,
    COUNT_SOURCE_STALE,
    COUNT_SOURCE_UNSPECIFIED,
    OP_CODE_UNAVAILABLE,
    OP_CODE_UNSPECIFIED,
    OP_CODE_VERSION_AHEAD,
    OP_KIND_COUNT,
    OP_OUTCOME_LIKED,
    OP_OUTCOME_NOT_LIKED,
    OP_OUTCOME_UNSPECIFIED,
    READ_MODE_STALE_OK,
    READ_MODE_STRONG,
    CountSource,
    OpCode,
    OpKind,
    OpOutcome,
    ReadMode,
)
from shard_node import edge_store, store, user_store
from shard_node.cache import CountCache
from shard_node.database import within
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.store import NEVER_CHANGED, Connection, Place, PostCount
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

DATABASE_TIMEOUT = 2.0
"""Seconds after which a read of the database is given up."""

T = TypeVar("T")


class ReadUnit:
    """The reads of one Execute call: columns in, columns out."""

    __slots__ = (
        "codes",
        "counts",
        "epochs",
        "kinds",
        "like_times",
        "min_versions",
        "outcomes",
        "post_ids",
        "slots",
        "sources",
        "user_ids",
        "versions",
    )

    def __init__(
        self,
        kinds: Sequence[OpKind.ValueType],
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        slots: Sequence[int],
        epochs: Sequence[int],
        min_versions: Sequence[int],
    ) -> None:
        """``min_versions`` may be empty: none is asked for."""
        size = len(post_ids)
        self.kinds = kinds
        self.post_ids = post_ids
        self.user_ids = user_ids
        self.slots = slots
        self.epochs = epochs
        self.min_versions = min_versions
        self.codes: list[OpCode.ValueType] = [OP_CODE_UNSPECIFIED] * size
        self.outcomes: list[OpOutcome.ValueType] = [OP_OUTCOME_UNSPECIFIED] * size
        self.counts = [0] * size
        self.versions = [0] * size
        self.like_times = [0] * size
        self.sources: list[CountSource.ValueType] = [COUNT_SOURCE_UNSPECIFIED] * size

    def __len__(self) -> int:
        return len(self.post_ids)

    def __repr__(self) -> str:
        return f"<ReadUnit of {len(self)}>"

    def refuse(self, positions: Sequence[int], code: OpCode.ValueType) -> None:
        """Answers these operations with an error."""
        for position in positions:
            self.codes[position] = code


class Reader:
    """Reads for one node."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        cache: CountCache,
        ownership: Ownership,
        leadership: Leadership,
        writer: Writer,
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._ownership = ownership
        self._leadership = leadership
        self._writer = writer
        self._tracing = tracing.active()

    def __repr__(self) -> str:
        return f"<Reader {self._ownership!r} {self._cache!r}>"

    async def answer(self, unit: ReadUnit, mode: ReadMode.ValueType) -> int:
        """Fills the result columns of the unit; the time, in µs since 1970, up to which they have everything."""
        now = time.time_ns() // 1000
        everything = range(len(unit))
        refused = self._refuse_unowned(unit)
        positions = [p for p in everything if not unit.codes[p]] if refused else everything
        counts = [p for p in positions if unit.kinds[p] == OP_KIND_COUNT]
        likes = [p for p in positions if unit.kinds[p] != OP_KIND_COUNT]
        if not self._leadership.leased:
            unit.refuse(likes, OP_CODE_UNAVAILABLE)
            if mode == READ_MODE_STALE_OK:
                await self._stale_counts(unit, counts)
            else:
                unit.refuse(counts, OP_CODE_UNAVAILABLE)
            return self._leadership.proved_at
        strong = mode == READ_MODE_STRONG
        slots_before = self._ownership.held
        await asyncio.gather(
            *([self._counts(unit, counts, strong=strong)] if counts else []),
            *([self._likes(unit, likes)] if likes else []),
        )
        if strong:
            # A commit that began after these reads proves that nobody else was the writer when they were made.
            if await self._writer.barrier():
                self._refuse_unowned(unit)
            else:
                unit.refuse(everything, OP_CODE_UNAVAILABLE)
        elif self._ownership.held is not slots_before:
            # A slot that has left while its rows were waited for looks like one in which nobody has liked anything.
            self._refuse_unowned(unit)
        return now

    def _refuse_unowned(self, unit: ReadUnit) -> bool:
        refused = self._ownership.refused_reads(unit.slots, unit.epochs)
        for position, code in refused.items():
            unit.codes[position] = code
        return bool(refused)

    async def _counts(self, unit: ReadUnit, positions: Sequence[int], *, strong: bool) -> None:
        slots = {unit.post_ids[p]: unit.slots[p] for p in positions}
        cached = {} if strong else await self._cache.get(slots)
        if unit.min_versions:
            for p in positions:
                held = cached.get(unit.post_ids[p])
                if held is not None and held.version < unit.min_versions[p]:
                    del cached[unit.post_ids[p]]
        missing = {post_id: slot for post_id, slot in slots.items() if post_id not in cached}
        read: dict[str, PostCount] = {}
        if missing:
            mark, slots_before = self._cache.mark(), self._ownership.held
            found = await self._from_database(lambda connection: _read_posts(connection, missing))
            if found is None:
                unit.refuse([p for p in positions if unit.post_ids[p] in missing], OP_CODE_UNAVAILABLE)
            else:
                read = {post_id: found.get(post_id, NEVER_CHANGED) for post_id in missing}
                if self._ownership.held is slots_before:
                    await self._cache.fill(mark, missing, read)
        for p in positions:
            post_id = unit.post_ids[p]
            count = read.get(post_id)
            source = COUNT_SOURCE_DATABASE
            if count is None:
                count, source = cached.get(post_id), COUNT_SOURCE_CACHE
            if count is None:
                continue
            if unit.min_versions and count.version < unit.min_versions[p]:
                unit.codes[p] = OP_CODE_VERSION_AHEAD
            unit.versions[p], unit.counts[p] = count
            unit.sources[p] = source

    async def _stale_counts(self, unit: ReadUnit, positions: Sequence[int]) -> None:
        cached = await self._cache.get({unit.post_ids[p]: unit.slots[p] for p in positions})
        for p in positions:
            count = cached.get(unit.post_ids[p])
            if count is None or (unit.min_versions and count.version < unit.min_versions[p]):
                unit.codes[p] = OP_CODE_UNAVAILABLE
            else:
                unit.versions[p], unit.counts[p] = count
                unit.sources[p] = COUNT_SOURCE_STALE

    async def _likes(self, unit: ReadUnit, positions: Sequence[int]) -> None:
        if unit.min_versions and any(unit.min_versions[p] for p in positions):
            # First: what is read afterwards includes at least these versions.
            await self._check_versions(unit, positions)
        post_ids = [unit.post_ids[p] for p in positions]
        slots = [unit.slots[p] for p in positions]
        user_ids = [unit.user_ids[p] for p in positions]
        liked = await self._from_database(
            lambda connection: edge_store.read_liked(
                connection, post_ids, user_ids, slots, self._writer.post_numbers
            )
        )
        if liked is None:
            unit.refuse(positions, OP_CODE_UNAVAILABLE)
            return
        for n, p in enumerate(positions):
            unit.outcomes[p] = OP_OUTCOME_LIKED if n in liked else OP_OUTCOME_NOT_LIKED
            unit.like_times[p] = liked.get(n, 0)

    async def _check_versions(self, unit: ReadUnit, positions: Sequence[int]) -> None:
        slots = {unit.post_ids[p]: unit.slots[p] for p in positions}
        posts = await self._from_database(lambda connection: _read_posts(connection, slots))
        if posts is None:
            unit.refuse(positions, OP_CODE_UNAVAILABLE)
            return
        for p in positions:
            if posts.get(unit.post_ids[p], NEVER_CHANGED).version < unit.min_versions[p]:
                unit.codes[p] = OP_CODE_VERSION_AHEAD

    async def likers(
        self, post_id: str, epoch: int, before: Place, limit: int
    ) -> tuple[OpCode.ValueType, PostCount, list[tuple[str, Place]]]:
        """The post, and its likes below ``before`` (user and place), newest first; or why not."""
        (slot,) = self._ownership.slots_of([post_id])
        refused = self._ownership.refused_reads([slot], [epoch])
        if refused:
            return refused[0], NEVER_CHANGED, []
        if not self._leadership.leased:
            return OP_CODE_UNAVAILABLE, NEVER_CHANGED, []
        found = await self._from_database(
            lambda connection: store.list_likers(connection, slot, post_id, before, limit)
        )
        if found is None:
            return OP_CODE_UNAVAILABLE, NEVER_CHANGED, []
        # Again: it may have left meanwhile, and its rows with it.
        refused = self._ownership.refused_reads([slot], [epoch])
        if refused:
            return refused[0], NEVER_CHANGED, []
        return OP_CODE_UNSPECIFIED, *found

    async def liked_posts(
        self, user_id: str, epoch: int, before: int, below: str, limit: int
    ) -> tuple[OpCode.ValueType, list[tuple[str, int]]]:
        """What the user likes (post, since when), newest first, see ``user_store.list_liked_posts``; or why not."""
        (slot,) = self._ownership.slots_of([user_id])
        refused = self._ownership.refused_reads([slot], [epoch])
        if refused:
            return refused[0], []
        if not self._leadership.leased:
            return OP_CODE_UNAVAILABLE, []
        found = await self._from_database(
            lambda connection: user_store.list_liked_posts(connection, slot, user_id, before, below, limit)
        )
        if found is None:
            return OP_CODE_UNAVAILABLE, []
        # Again: it may have left meanwhile, and its rows with it.
        refused = self._ownership.refused_reads([slot], [epoch])
        return (refused[0], []) if refused else (OP_CODE_UNSPECIFIED, found)

    async def _from_database(self, read: Callable[[Connection], Coroutine[Any, Any, T]]) -> T | None:
        """What ``read`` answers, or None when the database does not answer in time."""
        span: Span | None = None
        if self._tracing is not None and (trail := trail_of_call.get()) is not None:
            span = self._tracing.work("read", (trail.span,), {"db.system.name": "postgresql"})
        code = "OK"
        try:
            return await within(DATABASE_TIMEOUT, self._with_connection(read))
        except (psycopg.OperationalError, PoolTimeout, TooManyRequests, TimeoutError) as error:
            code = type(error).__name__
            log.warning("could not read from the database", error=code)
            return None
        finally:
            if span is not None:
                span.end(code)

    async def _with_connection(self, read: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        async with self._pool.connection() as connection:
            return await read(connection)


async def _read_posts(connection: Connection, slots: dict[str, int]) -> dict[str, PostCount]:
    return await store.posts_read(await store.read_posts(connection, slots))
