"""Erases a user: the pieces that a router puts together, each about one slot.

A user has edges in any slot, and nothing lists them for sure: what the users' side knows is told later, or not at all
where it is off. So each slot is gone over, from post to post by the edges' primary key. The order is the router's:

1. every slot is marked, the user's own first: from then on it takes no likes or unlikes of the user, so what a later
   look at the slot finds is all there will be;
2. the likes are ended, each as by an unlike, at a revision and a version of its own;
3. the edges are deleted, once those who read changes have seen the ends;
4. what the user likes is deleted from the user's own slot: its owner has been told of all ends, so nothing that is told
   from now on brings a row back;
5. the marks are taken away, the user's own first.

A purge is numbered by a revision of the user's own slot, and each mark bears that number. A piece does nothing in a
slot that is not marked for its purge. So pieces may come twice, late, from another router or to another node; and a
call that was overtaken by the end of its purge learns of it before it deletes what has come since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from likering.errors import MessageMalformed
from shard_node import user_store
from shard_node.admin import purge_pieces, steps
from shard_node.admin.purge import Consumed, nobody_reads
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.user_purge_pieces import (
    EndUserLikes,
    EraseUserEdges,
    EraseUserList,
    MarkUser,
    ReleaseUser,
)
from shard_node.ownership import Ownership
from shard_node.packed_ids import pack, unpack
from shard_node.purge_keys import user_mark_key
from shard_node.store import Connection, execute
from shard_node.writer import Writer

MAX_POSTS: Final = 10_000
"""Most posts of one look."""


class Place(NamedTuple):
    """Whose edges, where, for which purge, and behind the post of which number to look at how many posts."""

    slot: int
    epoch: int
    user_id: str
    purge: int = 0
    after: int = 0
    limit: int = MAX_POSTS


class UserEdge(NamedTuple):
    """An edge of the user."""

    post_id: str
    liked: bool
    rev: int


@dataclass(frozen=True, slots=True)
class Looked:
    """Edges of the user in some posts. ``last``: number of the last of them; None: that was the end of the slot."""

    edges: Sequence[UserEdge]
    posts: int
    last: int | None

    @property
    def likes(self) -> int:
        return sum(edge.liked for edge in self.edges)


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did. ``purge``: what the slot is marked for now, 0 for nothing; if it is not the one that was asked
    for, the step may have done nothing."""

    purge: int
    looked: Looked = Looked((), 0, None)
    edges_erased: int = 0
    list_rows: int = 0
    purge_time: int = 0
    waits_for: str = ""


class UserPurges:
    """Of one node. All methods raise SlotRefused, and as ``Writer.maintain``; then asking again does no harm."""

    def __init__(
        self, reads: SlotReads, ownership: Ownership, writer: Writer, consumed: Consumed = nobody_reads
    ) -> None:
        self._reads = reads
        self._ownership = ownership
        self._writer = writer
        self._consumed = consumed
        self._marks = writer.user_purge_marks

    def __repr__(self) -> str:
        return f"<UserPurges {self._marks!r}>"

    async def count(self, place: Place) -> Done:
        """Looks at the next posts; in the user's own slot, at the first, also at what the user likes."""
        rows = 0
        if self._own(place) and not place.after:

            async def count(connection: Connection) -> int:
                return await user_store.count_told(connection, place.slot, place.user_id)

            rows = await self._reads.read(place.slot, place.epoch, count)
        return Done(self._purge(place), await self._look(place), list_rows=rows)

    async def mark(self, place: Place) -> Done:
        """Marks the slot, or learns for which purge it is marked."""
        own = self._own(place)
        if place.purge < 1 and not own:
            raise MessageMalformed("a slot is marked for a purge that the user's own slot has begun")
        work = MarkUser(*place[:4], self._marks, own=own)
        await self._writer.maintain(work)
        steps.reached("user marked", place.slot)
        return Done(work.purge, edges_erased=work.erased)

    async def end_likes(self, place: Place) -> Done:
        """Ends the likes of the next posts."""
        looked = await self._look(place)
        liked = [edge.post_id for edge in looked.edges if edge.liked]
        for post_ids in _pieces(liked):
            await self._writer.maintain(EndUserLikes(*place[:4], self._marks, post_ids))
            steps.reached("user's likes ended", place.slot)
        return Done(self._purge(place), looked)

    async def erase_edges(self, place: Place) -> Done:
        """Deletes the edges of the next posts, as far as those who read changes have read."""
        consumed = self._consumed(place.slot)
        looked = await self._look(place)
        so_far = erased = 0
        for post_ids in _pieces([edge.post_id for edge in looked.edges]):
            work = EraseUserEdges(*place[:4], self._marks, post_ids, consumed)
            await self._writer.maintain(work)
            erased += work.erased
            so_far = max(so_far, work.erased_so_far)
            steps.reached("user's edges erased", place.slot)
        purge = self._purge(place)
        waits_for = ""
        if erased < len(looked.edges) and purge == place.purge:
            waits_for = f"those who read the changes of slot {place.slot} have read up to revision {consumed}"
        return Done(purge, looked, edges_erased=so_far, waits_for=waits_for)

    async def erase_list(self, place: Place) -> Done:
        """Deletes some of what the user likes. ``list_rows``: how many edges; 0: nothing was left."""
        work = EraseUserList(*place[:4], self._marks)
        await self._writer.maintain(work)
        steps.reached("user's list erased", place.slot)
        return Done(self._purge(place), list_rows=work.erased)

    async def release(self, place: Place) -> Done:
        """Takes the mark away. ``purge_time``: in the user's own slot, the end of the last purge, in µs; else 0."""
        await self._writer.maintain(ReleaseUser(*place[:4], self._marks, own=self._own(place)))
        steps.reached("user released", place.slot)

        async def read(connection: Connection) -> int:
            parameters = {"slot": place.slot, "mark": user_mark_key(place.user_id)}
            row = await (await execute(connection, "read_user_purge", parameters)).fetchone()
            return 0 if row is None else int(row[0])

        ended_at = await self._reads.read(place.slot, place.epoch, read) if self._own(place) else 0
        return Done(self._purge(place), purge_time=ended_at)

    def _own(self, place: Place) -> bool:
        return self._ownership.slots_of([place.user_id]) == [place.slot]

    def _purge(self, place: Place) -> int:
        return self._marks.purge(place.user_id, place.slot)

    async def _look(self, place: Place) -> Looked:
        async def read(connection: Connection) -> Looked:
            cursor = await execute(
                connection,
                "user_edges",
                {
                    "slot": place.slot,
                    "user_id": pack(place.user_id),
                    "after": place.after,
                    "limit": place.limit,
                },
            )
            *rows, (_, _, _, last, posts) = await cursor.fetchall()
            edges = [UserEdge(unpack(post_id), liked, rev) for post_id, liked, rev, _, _ in rows]
            return Looked(edges, posts, last if posts == place.limit else None)

        return await self._reads.read(place.slot, place.epoch, read)


def _pieces(post_ids: Sequence[str]) -> list[Sequence[str]]:
    size = purge_pieces.PIECE
    return [post_ids[start : start + size] for start in range(0, len(post_ids), size)]
