"""Compares counts with likes, and mends them.

What is compared is of one moment: one statement. So nothing is found that a like on its way explains.

A like changes a post's count and its edges in one transaction, so by *how much* a count is wrong stays the same however
many come. That is measured off the writer's queue, for as long as it takes, and taken from the count in the writer's
turn, in no time. What else could change the difference makes the repair do nothing: another generation of the writer,
another epoch of the slot, a purge, another repair (one at a time).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from likering.shard.v1.shard_service_pb2 import OP_CODE_UNAVAILABLE
from shard_node.admin import steps
from shard_node.admin.drift import Drift
from shard_node.admin.slot_reads import SlotReads
from shard_node.arrays import id_array, int_array, nullable_int_array
from shard_node.leadership import Leadership
from shard_node.maintenance import Maintenance, SlotRefused
from shard_node.ownership import Ownership
from shard_node.packed_ids import unpack
from shard_node.post_numbers import HIGHEST_NUMBER
from shard_node.store import Connection, PostCount, execute, execute_for_slots, posts_read
from shard_node.writer import Writer

MAX_POSTS = 1000
"""Of one repair."""


class Drifted(NamedTuple):
    """A post whose count is not its number of likes. Of likes that have lost their post's row, no id is known."""

    post_no: int
    post_id: str
    stored: int
    counted: int
    version: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one look found. ``last``: the number of the last post; None: that was the end of the slot."""

    drifts: Sequence[Drifted]
    posts: int
    likes: int
    last: int | None


class Measured(NamedTuple):
    """By how much a count is too high, and the end of the post's last purge when that was measured."""

    drift: int
    purged_rev: int | None


class MendCounts(Maintenance):
    """Takes from each count by how much it is too high, if the writer is still of that generation."""

    def __init__(
        self,
        slot: int,
        epoch: int,
        measured: Mapping[str, Measured],
        leadership: Leadership,
        generation: int,
    ) -> None:
        super().__init__(slot, epoch)
        self._measured = measured
        self._leadership = leadership
        self._generation = generation
        self.outdated = False
        """Nothing was done: it is to be measured again."""

    async def execute(self, connection: Connection, base_rev: int) -> None:
        self.outdated = self._leadership.fence.generation != self._generation
        if self.outdated:
            return
        cursor = await execute(
            connection,
            "mend_counts",
            {
                "slot": self.slot,
                "post_ids": id_array(list(self._measured)),
                "drifts": int_array([one.drift for one in self._measured.values()]),
                "purged_revs": nullable_int_array([one.purged_rev for one in self._measured.values()]),
            },
        )
        self.posts = await posts_read(cursor)


class Counts:
    """Of one node."""

    def __init__(
        self, reads: SlotReads, ownership: Ownership, leadership: Leadership, writer: Writer, drift: Drift
    ) -> None:
        self._reads = reads
        self._ownership = ownership
        self._leadership = leadership
        self._writer = writer
        self._drift = drift
        self._repairing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Counts {self._drift!r}>"

    async def verify(self, slot: int, epoch: int, after: int, limit: int) -> Piece:
        """Compares the posts of a slot with numbers above ``after``: about ``limit`` posts or likes.

        Raises SlotRefused.
        """
        piece = await self._reads.read(
            slot, epoch, lambda connection: _compare(connection, slot, after, limit)
        )
        self._drift.keep(self._ownership.epochs)
        drifted = {one.post_no: one.post_id for one in piece.drifts}
        self._drift.verified(slot, after, piece.last, piece.posts, drifted)
        return piece

    async def last_number(self, slot: int, epoch: int) -> int:
        """The highest number of a slot's posts; 0: it has none. Raises SlotRefused."""
        return await self._reads.read(slot, epoch, lambda connection: _last_number(connection, slot))

    async def repair(self, slot: int, epoch: int, post_ids: Sequence[str]) -> dict[str, PostCount]:
        """Mends the counts of these posts; answers those that it changed. Raises as ``Writer.maintain``."""
        async with self._repairing:
            generation = self._leadership.fence.generation if self._leadership.leased else -1
            measured = await self._reads.read(
                slot, epoch, lambda connection: _measure(connection, slot, post_ids)
            )
            steps.reached("measured", slot)
            mended: dict[str, PostCount] = {}
            if measured:
                work = MendCounts(slot, epoch, measured, self._leadership, generation)
                await self._writer.maintain(work)
                if work.outdated:
                    raise SlotRefused(OP_CODE_UNAVAILABLE)
                mended = work.posts
                steps.reached("mended", slot)
            # Likes that have lost their post's row are never right: they come without an id.
            right = [one for one in post_ids if one and (one in mended or one not in measured)]
            self._drift.repaired(slot, right, len(mended))
            return mended


async def _compare(connection: Connection, slot: int, after: int, limit: int) -> Piece:
    cursor = await execute(
        connection,
        "verify_counts",
        {"slot": slot, "after": after, "limit": limit, "highest": HIGHEST_NUMBER},
    )
    rows = await cursor.fetchall()
    drifts: list[Drifted] = []
    last, posts, likes = None, 0, 0
    for post_no, post_id, stored, counted, version in rows:
        if stored is None:
            last, posts, likes = post_no, counted, version
        else:
            drifts.append(Drifted(post_no, unpack(post_id) if post_id else "", stored, counted, version))
    return Piece(drifts, posts, likes, last)


async def _last_number(connection: Connection, slot: int) -> int:
    cursor = await execute_for_slots(connection, "highest_numbers", {}, [slot])
    ((_, number),) = await cursor.fetchall()
    return int(number)


async def _measure(connection: Connection, slot: int, post_ids: Sequence[str]) -> dict[str, Measured]:
    cursor = await execute(connection, "count_drifts", {"slot": slot, "post_ids": id_array(post_ids)})
    return {
        unpack(post_id): Measured(drift, purged_rev) for post_id, drift, purged_rev in await cursor.fetchall()
    }
