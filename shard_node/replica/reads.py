"""Reads from a replica of a node's database, with a time up to which they have everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.shard.v1.shard_service_pb2 import (
    COUNT_SOURCE_STALE,
    OP_CODE_MOVING,
    OP_CODE_NOT_OWNER,
    OP_CODE_UNAVAILABLE,
    OP_KIND_COUNT,
    OP_OUTCOME_LIKED,
    OP_OUTCOME_NOT_LIKED,
)
from shard_node import edge_store, store
from shard_node.arrays import int_array
from shard_node.database import within
from shard_node.ownership import SlotState
from shard_node.post_numbers import PostNumbers
from shard_node.reads import DATABASE_TIMEOUT, ReadUnit
from shard_node.store import NEVER_CHANGED, Connection, Cursor, PostCount, execute

log = structlog.get_logger(__name__)

Slots = Mapping[int, tuple[int, SlotState]]
"""Slot → epoch and state."""


class Promoted(Exception):
    """The database takes writes now: it is a node's own, and no replica."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. ``replayed_until`` was read first, in µs since 1970; the slots before and after everything else.

    ``liked``: position among the unit's reads of likes → since when.
    """

    replayed_until: int
    before: Slots
    posts: Mapping[str, PostCount]
    liked: Mapping[int, int]
    after: Slots


class ReplicaReader:
    """Answers reads from a pool of connections to a standby."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    def __repr__(self) -> str:
        return f"<ReplicaReader {self._pool.name}>"

    async def answer(self, unit: ReadUnit) -> int:
        """Fills the result columns of the unit; the time, in µs since 1970, up to which they have everything.

        0 when there is nothing to answer from: all is refused then.
        """
        try:
            look = await within(DATABASE_TIMEOUT, self._look(unit))
        except (psycopg.OperationalError, PoolTimeout, TooManyRequests, TimeoutError, Promoted) as error:
            log.warning("could not read from the replica", error=type(error).__name__)
            look = None
        if look is None:
            unit.refuse(range(len(unit)), OP_CODE_UNAVAILABLE)
            return 0
        fill(unit, look)
        return look.replayed_until

    async def replayed_until(self) -> int | None:
        """The time of the last commit that the replica has, in µs since 1970; None when it cannot tell.

        Raises Promoted.
        """
        try:
            return await within(DATABASE_TIMEOUT, self._replayed_until())
        except (psycopg.OperationalError, PoolTimeout, TooManyRequests, TimeoutError) as error:
            log.warning("the replica does not answer", error=type(error).__name__)
            return None

    async def _replayed_until(self) -> int | None:
        async with self._pool.connection() as connection:
            return await _time(await execute(connection, "replayed_until"))

    async def _look(self, unit: ReadUnit) -> Look | None:
        likes = likes_of(unit)
        # Of likes that are to be of a version as well: read before them, so what they show is not older.
        slots = {
            unit.post_ids[p]: unit.slots[p]
            for p in range(len(unit))
            if unit.kinds[p] == OP_KIND_COUNT or (unit.min_versions and unit.min_versions[p])
        }
        among = {"slots": int_array(list(set(unit.slots)))}
        async with self._pool.connection() as connection, connection.pipeline():
            # Each statement sees what was replayed before it began: all of them at least what this one tells of.
            time = await execute(connection, "replayed_until")
            before = await execute(connection, "slots_among", among)
            posts = await store.read_posts(connection, slots) if slots else None
            liked = (
                await edge_store.read_liked(
                    connection,
                    [unit.post_ids[p] for p in likes],
                    [unit.user_ids[p] for p in likes],
                    [unit.slots[p] for p in likes],
                    PostNumbers(),
                )
                if likes
                else {}
            )
            after = await execute(connection, "slots_among", among)
            replayed_until = await _time(time)
            if replayed_until is None:
                return None
            return Look(
                replayed_until,
                await _slots(before),
                await store.posts_read(posts) if posts is not None else {},
                liked,
                await _slots(after),
            )


def likes_of(unit: ReadUnit) -> Sequence[int]:
    """The positions of those that ask for likes, not for counts."""
    return [p for p in range(len(unit)) if unit.kinds[p] != OP_KIND_COUNT]


def fill(unit: ReadUnit, look: Look) -> None:
    """Fills the result columns of the unit from what was found."""
    numbers = {p: n for n, p in enumerate(likes_of(unit))}
    for p, (post_id, slot, epoch) in enumerate(zip(unit.post_ids, unit.slots, unit.epochs, strict=True)):
        # The same before and after: then it was so in between, and the slot's rows were there.
        held = look.before.get(slot)
        if held != look.after.get(slot) or held is None or held[0] != epoch or held[1] is SlotState.MOVED:
            unit.codes[p] = OP_CODE_NOT_OWNER
        elif held[1] is SlotState.FROZEN:
            # Its next owner may have taken writes since: the time would promise more than there is.
            unit.codes[p] = OP_CODE_MOVING
        elif unit.min_versions and look.posts.get(post_id, NEVER_CHANGED).version < unit.min_versions[p]:
            unit.codes[p] = OP_CODE_UNAVAILABLE  # the replica is behind; the owner is not known to be
        else:
            if p in numbers:
                n = numbers[p]
                unit.outcomes[p] = OP_OUTCOME_LIKED if n in look.liked else OP_OUTCOME_NOT_LIKED
                unit.like_times[p] = look.liked.get(n, 0)
            else:
                unit.versions[p], unit.counts[p] = look.posts.get(post_id, NEVER_CHANGED)
            unit.sources[p] = COUNT_SOURCE_STALE


async def _time(cursor: Cursor) -> int | None:
    row = await cursor.fetchone()
    if row is None:
        raise Promoted
    return row[0] if row[0] is None else int(row[0])


async def _slots(cursor: Cursor) -> Slots:
    return {slot: (epoch, SlotState(state)) for slot, epoch, state in await cursor.fetchall()}
