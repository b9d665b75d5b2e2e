"""The transactions of a purge of a user. What they have to respect is said in ``user_purge``."""

from __future__ import annotations

from collections.abc import Sequence

from shard_node import edge_store, user_store
from shard_node.admin import purge_pieces
from shard_node.arrays import id_array
from shard_node.commit import Batch
from shard_node.fold import EdgeState, PostChange
from shard_node.maintenance import Maintenance
from shard_node.packed_ids import pack
from shard_node.post_numbers import PostNumbers
from shard_node.purge_keys import user_mark_key, user_place_key
from shard_node.purge_marks import PurgeMark
from shard_node.store import Connection, execute
from shard_node.user_purge_marks import UserPurgeMarks
from shard_node.user_store import LIKES_OF_A_CHUNK


class MarkUser(Maintenance):
    """Marks the slot. Afterwards ``purge`` says for which purge: it may be another one than was asked for."""

    revisions = 1

    def __init__(
        self, slot: int, epoch: int, user_id: str, purge: int, marks: UserPurgeMarks, *, own: bool
    ) -> None:
        """``own``: it is the user's own slot, whose revision the purge is; ``purge`` is of no matter then."""
        super().__init__(slot, epoch)
        self._user_id = user_id
        self._marks = marks
        self._own = own
        self.purge = purge
        self.erased = 0

    async def execute(self, connection: Connection, base_rev: int) -> None:
        cursor = await execute(
            connection,
            "begin_user_purge",
            {
                "slot": self.slot,
                "mark": user_mark_key(self._user_id),
                "purge": base_rev + 1 if self._own else self.purge,
                "own": self._own,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.purge, self.erased = row

    def committed(self) -> None:
        self._marks.add(self._user_id, PurgeMark(self.slot, self.purge))


class UserPurgePiece(Maintenance):
    """Does nothing unless the slot is marked for that very purge."""

    def __init__(self, slot: int, epoch: int, user_id: str, purge: int, marks: UserPurgeMarks) -> None:
        super().__init__(slot, epoch)
        self._user_id = user_id
        self._purge = purge
        self._marks = marks

    @property
    def _under_way(self) -> bool:
        # In the writer's turn these marks are what the database has.
        return 0 < self._purge == self._marks.purge(self._user_id, self.slot)


class EndUserLikes(UserPurgePiece):
    """Makes tombstones of the user's likes of these posts: each a change of its own, as by an unlike."""

    def __init__(
        self,
        slot: int,
        epoch: int,
        user_id: str,
        purge: int,
        marks: UserPurgeMarks,
        post_ids: Sequence[str],
    ) -> None:
        super().__init__(slot, epoch, user_id, purge, marks)
        self._post_ids = post_ids
        self.revisions = len(post_ids)

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        size = len(self._post_ids)
        slots, unknown = [self.slot] * size, PostNumbers()
        found = await edge_store.read_edges(
            connection, self._post_ids, [self._user_id] * size, slots, unknown
        )
        edges = await edge_store.edges_read(found, self._post_ids, slots)
        liked = {(post_id, self._user_id): edge for post_id, edge in edges if edge.liked}
        if not liked:
            return
        ended = {
            key: EdgeState(self.slot, False, rev, max(edge.intent, rev), edge.first_rev)
            for rev, (key, edge) in enumerate(liked.items(), base_rev + 1)
        }
        changes = {post_id: PostChange(self.slot, 1, -1) for post_id, _ in ended}
        writing = await edge_store.write_edges(connection, ended, changes, unknown)
        self.posts, _ = await edge_store.edges_written(writing)


class EraseUserEdges(UserPurgePiece):
    """Deletes the user's tombstones of these posts, up to a revision; counts them in the mark."""

    revisions = 1

    def __init__(
        self,
        slot: int,
        epoch: int,
        user_id: str,
        purge: int,
        marks: UserPurgeMarks,
        post_ids: Sequence[str],
        consumed: int,
    ) -> None:
        super().__init__(slot, epoch, user_id, purge, marks)
        self._post_ids = post_ids
        self._consumed = consumed
        self.erased = 0
        self.erased_so_far = 0

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        cursor = await execute(
            connection,
            "erase_user_edges",
            {
                "slot": self.slot,
                "mark": user_mark_key(self._user_id),
                "user_id": pack(self._user_id),
                "post_ids": id_array(self._post_ids),
                "consumed": self._consumed,
                "rev": base_rev + 1,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        self.erased, self.erased_so_far = row


class EraseUserList(UserPurgePiece):
    """Deletes some of what the user likes, as it was told; in the user's own slot. Counts the edges, not the rows."""

    erased = 0

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if self._under_way:
            chunks = max(purge_pieces.PIECE // LIKES_OF_A_CHUNK, 1)
            self.erased = await user_store.erase_chunks(connection, self.slot, self._user_id, chunks)


class ReleaseUser(UserPurgePiece):
    """Takes the mark away. In the user's own slot what remains of it is the receipt.

    Where edges were erased, the purge gets a place among the changes of the slot: whatever the slot told of the user is
    before it, and what it takes of the user from now on behind.
    """

    revisions = 1

    def __init__(
        self, slot: int, epoch: int, user_id: str, purge: int, marks: UserPurgeMarks, *, own: bool
    ) -> None:
        super().__init__(slot, epoch, user_id, purge, marks)
        self._own = own

    async def execute(self, connection: Connection, base_rev: int) -> None:
        if not self._under_way:
            return
        await execute(
            connection,
            "end_user_purge" if self._own else "remove_user_mark",
            {
                "slot": self.slot,
                "mark": user_mark_key(self._user_id),
                "place": user_place_key(base_rev + 1, self._user_id),
                "rev": base_rev + 1,
            },
        )

    def batch(self, base_rev: int) -> Batch:
        batch = super().batch(base_rev)
        # No post has changed, but there may be something to tell of.
        batch.post_ids.append("")
        batch.slots.append(self.slot)
        return batch

    def committed(self) -> None:
        if self._under_way:
            self._marks.remove(self._user_id, self.slot)
