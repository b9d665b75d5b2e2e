"""Streams the changes of slots: reads what has gathered page by page, then what each commit adds.

A page is one use of one connection, and pages of all streams take turns, so a consumer that catches up leaves the rest
of the pool to reads. A stream is read on only when its page has been taken, so a slow consumer costs nothing but its
turn. ``changes`` says what a page is and why none is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.cursors import FROM_NOW
from likering.errors import CursorExpired, ShardUnavailable
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_MOVING,
    OP_CODE_NOT_OWNER,
    OP_CODE_UNSPECIFIED,
    StreamChangesResponse,
)
from likering.v1.like_service_pb2 import EXACTNESS_EXACT, LikeCount, LikeEvent
from shard_node import store
from shard_node.changes import Changes, changes_after
from shard_node.database import within
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.queries import FEW_SLOTS
from shard_node.store import Change, Connection, SlotMoment

log = structlog.get_logger(__name__)

PAGE_TIMEOUT: Final = 10.0
"""Seconds after which a page is given up. A page that is not in memory is thousands of reads of the disk."""
TAIL_INTERVAL: Final = 0.1
"""Seconds between two looks of a stream at what commits have added."""
PROGRESS_INTERVAL: Final = 5.0
"""Seconds after which a stream looks at all of its slots, and says where it stands."""
SLOTS_AT_ONCE: Final = 64
"""Most slots of one look at what commits have added."""
_NOTHING_ABOVE: Final = 2**63 - 1
_SECOND: Final = 1_000_000


class Feed:
    """The streams of one node."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        ownership: Ownership,
        leadership: Leadership,
        reach: Callable[[int], Awaitable[None]],
    ) -> None:
        """``reach``: see ``Writer.reach``."""
        self._pool = pool
        self._ownership = ownership
        self._leadership = leadership
        self._reach = reach
        self._followers: set[Follower] = set()
        self._turn = asyncio.Semaphore(1)
        self._purged: dict[int, int] = {}
        """Slot → the revision above which nothing was purged there when it was looked at last: a hint."""
        ownership.on_replaced.append(self._look_again)

    def __repr__(self) -> str:
        return f"<Feed with {len(self._followers)} streams>"

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._followers)

    def committed(self, slots: Collection[int]) -> None:
        """A commit has changed, or may have changed, these slots."""
        if self._followers:
            distinct = frozenset(slots)
            for follower in self._followers:
                follower.touch(distinct)

    async def changes(
        self, epochs: Mapping[int, int], positions: Mapping[int, int], limit: int, began: int = 0
    ) -> AsyncGenerator[StreamChangesResponse, None]:
        """The changes of slots (slot → epoch) after positions (slot → revision), at most ``limit`` per response.

        ``began``: a revision of before the consumer was told anything; 0 when that is not known. Ends when no slot is
        left. Raises ShardUnavailable when the node cannot tell, CursorExpired when it has forgotten what was to tell,
        and NotPossible when ``began`` is far ahead.
        """
        await self._begin(began)
        follower = Follower(positions, began)
        self._followers.add(follower)
        try:
            while follower.positions:
                await follower.due()
                response = await self._look(follower, epochs, limit)
                if response.events or response.codes or follower.owes_progress:
                    follower.owes_progress = False
                    yield response
        finally:
            self._followers.discard(follower)

    async def _begin(self, began: int) -> None:
        """Has what is read from now on show all up to there, and what is committed later be above."""
        try:
            await self._reach(began)
        except (psycopg.Error, ConnectionError, TimeoutError) as error:
            raise ShardUnavailable from error

    def _look_again(self) -> None:
        for follower in self._followers:
            follower.touch(follower.positions.keys())

    async def _look(self, follower: Follower, epochs: Mapping[int, int], limit: int) -> StreamChangesResponse:
        response = StreamChangesResponse()
        slots = follower.take(limit)
        if not slots:
            return response
        each = min(max(limit // len(slots), 1), store.MOST_CHANGES)
        found = await self._read({slot: follower.positions[slot] for slot in slots}, each)
        if found is None:
            follower.touch(slots)
            return response
        moments, changed = found
        by_slot: dict[int, list[Change]] = defaultdict(list)
        for change in changed:
            by_slot[change.slot].append(change)
        codes = []
        for slot in slots:
            moment = moments.get(slot)
            if moment is None or moment.epoch != epochs[slot]:
                if self._is_gone(slot, epochs[slot], follower):
                    response.slots.append(slot)
                    response.positions.append(follower.positions.pop(slot))
                    codes.append(OP_CODE_NOT_OWNER)
                continue
            before = follower.positions[slot]
            if follower.has_expired(slot, moment.swept_rev):
                raise _expired(slot, before, moment.swept_rev)
            if before == FROM_NOW:
                if not moment.owned:
                    continue  # until the move has ended: which revisions are to come is not known here
                follower.owes_progress = True
                after = moment.last_rev
            else:
                changes = changes_after(before, moment, by_slot[slot], each)
                _add_events(response, changes)
                after = changes.position
                if not changes.complete:
                    follower.is_behind(slot)
            if after != before:
                follower.positions[slot] = after
                response.slots.append(slot)
                response.positions.append(after)
                codes.append(OP_CODE_UNSPECIFIED)
        if any(codes):
            response.codes.extend(codes)
        return response

    def _is_gone(self, slot: int, epoch: int, follower: Follower) -> bool:
        """Whether a slot that the database does not have at this epoch is to be asked for elsewhere."""
        code = self._ownership.refused_writes([slot], [epoch]).get(0)
        if code is None:
            follower.touch((slot,))  # it has come since the look
        return code not in (None, OP_CODE_MOVING)

    async def _read(
        self, positions: Mapping[int, int], limit: int
    ) -> tuple[dict[int, SlotMoment], list[Change]] | None:
        """None when there is no connection for it just now."""
        above = {
            slot: _NOTHING_ABOVE if position == FROM_NOW else position for slot, position in positions.items()
        }
        try:
            # The turn is given back when a read is given up, which may go on for as long as its server hangs.
            async with self._turn:
                if not self._leadership.leased:
                    raise ShardUnavailable
                found = await within(PAGE_TIMEOUT, self._read_page(above, limit))
            # The database of a node that another one has replaced may have changes that never were.
            if not self._leadership.leased:
                raise ShardUnavailable
        except (PoolTimeout, TooManyRequests):
            return None
        except (psycopg.OperationalError, TimeoutError) as error:
            log.warning("could not read changes", error=type(error).__name__)
            raise ShardUnavailable from error
        return found

    async def _read_page(
        self, positions: Mapping[int, int], limit: int
    ) -> tuple[dict[int, SlotMoment], list[Change]]:
        # Hardly ever are there purges behind a position, and to look for them takes as long as all the rest.
        purges = self._may_have_purges(positions)
        async with self._pool.connection() as connection:
            found = await store.read_changes(connection, positions, limit, purges=purges)
            self._purged.update((slot, moment.purged_rev) for slot, moment in found[0].items())
            if not purges and self._may_have_purges(positions):
                found = await store.read_changes(connection, positions, limit, purges=True)
        return found

    def _may_have_purges(self, positions: Mapping[int, int]) -> bool:
        return any(self._purged.get(slot, 0) > position for slot, position in positions.items())


class Follower:
    """One stream: where it stands (slot → revision), and in which slots there is something to look at."""

    def __init__(self, positions: Mapping[int, int], began: int = 0) -> None:
        """``began``: see ``Feed.changes``."""
        self.positions = dict(positions)
        self._began = began
        self.owes_progress = False
        """The next response is sent even without events."""
        self._touched = set(positions)
        self._round: list[int] = []
        """What was touched when this round of looks began. It ends, however much is touched meanwhile."""
        self._behind: dict[int, None] = {}  # in order
        self._behind_next = False
        self._wake = asyncio.Event()
        self._next_look = 0.0
        self._next_progress = time.monotonic() + PROGRESS_INTERVAL

    def __repr__(self) -> str:
        return f"<Follower of {len(self.positions)} slots, {len(self._touched)} touched, {len(self._behind)} behind>"

    def touch(self, slots: Collection[int]) -> None:
        """Something may have happened to these slots."""
        touched = self.positions.keys() & slots
        if touched:
            self._touched |= touched
            self._wake.set()

    def has_expired(self, slot: int, swept_rev: int) -> bool:
        """Whether an edge that it was told of as liked may have ended and have been swept since.

        What had ended up to its position it was told of, and what had when it began it never heard of at all.
        """
        position = self.positions[slot]
        return position != FROM_NOW and swept_rev > max(position, self._began)

    def is_behind(self, slot: int) -> None:
        """There is more of the slot to read, at once."""
        self._behind[slot] = None

    async def due(self) -> None:
        """Waits until there is something to look at."""
        while True:
            now = time.monotonic()
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_INTERVAL
                self._touched.update(self.positions)
                self.owes_progress = True
            if self._behind or self._round or (self._touched and now >= self._next_look):
                return
            if self._touched:
                await asyncio.sleep(self._next_look - now)  # what is committed meanwhile is read with it
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_progress - now):
                    await self._wake.wait()

    def take(self, most: int) -> list[int]:
        """The slots to look at now."""
        now = time.monotonic()
        if not self._round and self._touched and now >= self._next_look:
            self._round, self._touched = list(self._touched), set()
            self._next_look = now + TAIL_INTERVAL
        if self._round and not (self._behind and self._behind_next):
            slots = self._round[: min(most, SLOTS_AT_ONCE)]
            del self._round[: len(slots)]
            self._behind_next = True
        else:
            slots = list(islice(self._behind, min(most, FEW_SLOTS)))
            self._behind_next = False
        for slot in slots:
            self._behind.pop(slot, None)
        return [slot for slot in slots if slot in self.positions]


def _expired(slot: int, position: int, swept_rev: int) -> CursorExpired:
    return CursorExpired(
        metadata={"slot": str(slot), "position": str(position), "swept_until": str(swept_rev)}
    )


def _add_events(response: StreamChangesResponse, changes: Changes) -> None:
    """Field by field, and the count as a copy of one that is used again: half of what new messages take."""
    add = response.events.add
    now = time.time_ns() // 1000
    count = LikeCount(exactness=EXACTNESS_EXACT)
    count.as_of_time.seconds = now // _SECOND
    count.as_of_time.nanos = now % _SECOND * 1000
    for change, first in zip(changes.told, changes.first, strict=True):
        event = add()
        event.slot, _, _, first_rev, event.liked, post_id, event.user_id, version, like_count, since = change
        event.kind = LikeEvent.KIND_EDGE if first_rev is not None else _purge_kind(post_id)
        event.post_id = post_id
        event.first_like = first
        like_time = event.like_time
        like_time.seconds, micros = divmod(since, _SECOND)
        like_time.nanos = micros * 1000
        if not post_id:
            continue
        count.post_id = post_id
        count.count = like_count
        count.version = version
        event.like_count.CopyFrom(count)


def _purge_kind(post_id: str) -> LikeEvent.Kind.ValueType:
    return LikeEvent.KIND_POST_PURGED if post_id else LikeEvent.KIND_USER_PURGED
