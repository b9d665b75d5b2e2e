"""Erases all edges of a post, in pieces, each a transaction of the writer's queue.

First the post's row is marked: from then on its likes are refused, here and wherever the slot goes. Then each like is
ended as an unlike would, at a revision and a version of its own, so that whoever reads changes by their revisions sees
the end of each; then, once those have seen it, the rows are deleted; then the mark is taken away. Every piece looks
whether that very purge is still under way, so any of them may come twice, late, or from another node: how far it is
is said by the rows alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shard_node.admin import purge_pieces, steps
from shard_node.admin.purge_pieces import BeginPurge, EndLikes, EndPurge, EraseEdges
from shard_node.admin.slot_reads import SlotReads
from shard_node.ownership import Ownership
from shard_node.packed_ids import pack, unpack
from shard_node.store import Connection, execute
from shard_node.writer import Writer

WORK_SECONDS: Final = 2.0
"""Of one call; whoever asked asks again for more."""
NEWEST: Final = 2**63 - 1
"""A revision above all there are."""

Consumed = Callable[[int], int]
"""Slot → the revision up to which everybody who reads its changes has read them: what is above is not deleted yet."""


def nobody_reads(slot: int) -> int:
    """While nobody reads changes, nothing waits for them."""
    return NEWEST


@dataclass(frozen=True, slots=True)
class PurgeState:
    """How far a purge is. ``ended_at``: revision, which is a time in µs, of the end of the post's last purge, or 0."""

    began: int
    likes: int
    version: int
    edges_erased: int
    ended_at: int
    done: bool
    waits_for: str = ""


class _Post(NamedTuple):
    """What is purged, and since when."""

    slot: int
    epoch: int
    post_id: str
    began: int


class _Row:
    """A post's row, as a purge needs it."""

    def __init__(
        self,
        version: int,
        likes: int,
        began: int | None,
        erased: int,
        ended_at: int | None,
        has_edges: bool,
    ) -> None:
        self.version = version
        self.likes = likes
        self.began = began
        self.erased = erased
        self.ended_at = ended_at or 0
        self.has_edges = has_edges

    def state(self, *, done: bool = False, waits_for: str = "") -> PurgeState:
        return PurgeState(
            self.began or 0, self.likes, self.version, self.erased, self.ended_at, done, waits_for
        )


class Purges:
    """The purges of one node."""

    def __init__(
        self, reads: SlotReads, ownership: Ownership, writer: Writer, consumed: Consumed = nobody_reads
    ) -> None:
        self._reads = reads
        self._ownership = ownership
        self._writer = writer
        self._consumed = consumed

    def __repr__(self) -> str:
        return f"<Purges {self._writer.purge_marks!r}>"

    async def estimate(self, post_id: str, epoch: int) -> tuple[int, int]:
        """Likes and edges of the post. Raises SlotRefused."""
        (slot,) = self._ownership.slots_of([post_id])

        async def count(connection: Connection) -> tuple[int, int]:
            cursor = await execute(connection, "count_edges", {"slot": slot, "post_id": pack(post_id)})
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0]), int(row[1])

        return await self._reads.read(slot, epoch, count)

    async def purge(self, post_id: str, epoch: int, began: int) -> PurgeState:
        """Goes on for some seconds with the purge that began at that revision; 0: begins one, if there is need.

        Raises as ``Writer.maintain``; then asking again does no harm.
        """
        ends = time.monotonic() + WORK_SECONDS
        (slot,) = self._ownership.slots_of([post_id])
        row = await self._row(slot, epoch, post_id)
        if row.began is None:
            if began or not (row.has_edges or row.likes):
                return row.state(done=True)
            beginning = BeginPurge(slot, epoch, post_id, self._writer.purge_marks)
            await self._writer.maintain(beginning)
            steps.reached("purge begun", slot)
            began = beginning.began
        else:
            began = row.began
        post = _Post(slot, epoch, post_id, began)
        waits_for = ""
        done = await self._end_likes(post, ends)
        if done:
            done, waits_for = await self._erase(post, ends)
        if done:
            await self._writer.maintain(EndPurge(*post, self._writer.purge_marks))
            steps.reached("purge ended", slot)
        row = await self._row(slot, epoch, post_id)
        return row.state(done=row.began != began, waits_for=waits_for)

    async def _end_likes(self, post: _Post, ends: float) -> bool:
        """Whether no like is left."""
        after = 0
        while True:
            likes = await self._list(post, "list_likes_to_end", after)
            if not likes:
                return True
            after = likes[-1][1]
            users = [unpack(user_id) for user_id, _ in likes]
            await self._writer.maintain(EndLikes(*post, self._writer.purge_marks, users))
            steps.reached("likes ended", post.slot)
            if time.monotonic() > ends:
                return False

    async def _erase(self, post: _Post, ends: float) -> tuple[bool, str]:
        """Whether no row is left of those that were there, and what keeps the others."""
        after, kept = b"", 0
        consumed = self._consumed(post.slot)
        while True:
            edges = await self._list(post, "list_edges_to_erase", after)
            if not edges:
                break
            after = edges[-1][0]
            users = [unpack(user_id) for (user_id,) in edges]
            erasing = EraseEdges(*post, self._writer.purge_marks, users, consumed)
            await self._writer.maintain(erasing)
            kept += len(users) - erasing.erased
            steps.reached("edges erased", post.slot)
            if time.monotonic() > ends:
                return False, ""
        if consumed < NEWEST and kept:
            return (
                False,
                f"those who read the changes of slot {post.slot} have read up to revision {consumed}",
            )
        return True, ""

    async def _row(self, slot: int, epoch: int, post_id: str) -> _Row:
        async def read(connection: Connection) -> _Row:
            cursor = await execute(connection, "read_purge", {"slot": slot, "post_id": pack(post_id)})
            row = await cursor.fetchone()
            assert row is not None
            return _Row(*row)

        return await self._reads.read(slot, epoch, read)

    async def _list(self, post: _Post, query: str, after: int | bytes) -> list[Any]:
        """Off the writer's turn: rows that are gone already may take long to be passed over."""

        async def read(connection: Connection) -> list[Any]:
            cursor = await execute(
                connection,
                query,
                {
                    "slot": post.slot,
                    "post_id": pack(post.post_id),
                    "after": after,
                    "limit": purge_pieces.PIECE,
                },
            )
            return await cursor.fetchall()

        return await self._reads.read(post.slot, post.epoch, read)
