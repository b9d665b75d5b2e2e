"""The transactions of a purge. What they have to respect is said in ``purge``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shard_node import edge_store
from shard_node.arrays import id_array
from shard_node.fold import EdgeState, PostChange
from shard_node.maintenance import Maintenance
from shard_node.packed_ids import pack
from shard_node.post_numbers import PostNumbers
from shard_node.purge_keys import mark_key, post_place_key
from shard_node.purge_marks import PurgeMark, PurgeMarks
from shard_node.store import Connection, PostCount, execute

PIECE: Final = 1000
"""Most rows of one transaction."""


class BeginPurge(Maintenance):
    """Marks the post, unless it is marked."""

    revisions = 1

    def __init__(self, slot: int, epoch: int, post_id: str, marks: PurgeMarks) -> None:
        super().__init__(slot, epoch)
        self._post_id = post_id
        self._marks = marks
        self.began = 0

    async def execute(self, connection: Connection, base_rev: int) -> None:
        cursor = await execute(
            connection,
            "begin_purge",
            {
                "slot": self.slot,
                "post_id": pack(self._post_id),
                "mark": mark_key(self._post_id),
                "rev": base_rev + 1,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.began = row[0]

    def committed(self) -> None:
        self._marks.add(self._post_id, PurgeMark(self.slot, self.began))


class PurgePiece(Maintenance):
    """Does nothing unless the purge that began at that revision is under way."""

    def __init__(self, slot: int, epoch: int, post_id: str, began: int, marks: PurgeMarks) -> None:
        super().__init__(slot, epoch)
        self._post_id = post_id
        self._began = began
        self._marks = marks

    @property
    def _under_way(self) -> bool:
        # In the writer's turn these marks are what the database has.
        return self._marks.began(self._post_id) == self._began


class EndLikes(PurgePiece):
    """Makes tombstones of likes: each a change of its own, as by its user's unlike."""

    revisions = PIECE

    def __init__(
        self, slot: int, epoch: int, post_id: str, began: int, marks: PurgeMarks, user_ids: Sequence[str]
    ) -> None:
        super().__init__(slot, epoch, post_id, began, marks)
        self._user_ids = user_ids

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        post_id, size = self._post_id, len(self._user_ids)
        slots, unknown = [self.slot] * size, PostNumbers()
        found = await edge_store.read_edges(connection, [post_id] * size, self._user_ids, slots, unknown)
        edges = await edge_store.edges_read(found, self._user_ids, slots)
        liked = {(post_id, user_id): edge for user_id, edge in edges if edge.liked}
        if not liked:
            return
        ended = {
            key: EdgeState(self.slot, False, rev, max(edge.intent, rev), edge.first_rev)
            for rev, (key, edge) in enumerate(liked.items(), base_rev + 1)
        }
        change = PostChange(self.slot, len(ended), -len(ended))
        writing = await edge_store.write_edges(connection, ended, {post_id: change}, unknown)
        self.posts, _ = await edge_store.edges_written(writing)


class EraseEdges(PurgePiece):
    """Deletes tombstones, up to a revision, and counts them in the post's row."""

    def __init__(
        self,
        slot: int,
        epoch: int,
        post_id: str,
        began: int,
        marks: PurgeMarks,
        user_ids: Sequence[str],
        consumed: int,
    ) -> None:
        super().__init__(slot, epoch, post_id, began, marks)
        self._user_ids = user_ids
        self._consumed = consumed
        self.erased = 0

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        cursor = await execute(
            connection,
            "erase_edges",
            {
                "slot": self.slot,
                "post_id": pack(self._post_id),
                "user_ids": id_array(self._user_ids),
                "consumed": self._consumed,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.erased = row[0]


class EndPurge(PurgePiece):
    """Takes the mark away, and gives the purge its place among the changes of the slot."""

    revisions = 1

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        cursor = await execute(
            connection,
            "end_purge",
            {
                "slot": self.slot,
                "post_id": pack(self._post_id),
                "mark": mark_key(self._post_id),
                "place": post_place_key(base_rev + 1, self._post_id),
                "rev": base_rev + 1,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.posts = {self._post_id: PostCount(*row)}

    def committed(self) -> None:
        if self._under_way:
            self._marks.remove(self._post_id)
