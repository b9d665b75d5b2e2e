"""Likes from elsewhere, inserted in bulk in the writer's turn.

An edge that exists is left alone, whether it says like or unlike: what users did here is newer than what is brought in.
So repeating a batch changes nothing. A like's original time is its intent too: any later unlike undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from likering.errors import ShardOverloaded
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_POST_BEING_PURGED,
    OP_CODE_USER_BEING_PURGED,
    OpCode,
)
from shard_node import edge_store
from shard_node.commit import Batch
from shard_node.maintenance import Transaction
from shard_node.ownership import Ownership
from shard_node.post_numbers import PostNumbers
from shard_node.purge_marks import PurgeMarks
from shard_node.store import Connection
from shard_node.user_purge_marks import UserPurgeMarks
from shard_node.writer import Writer

MAX_LIKES: Final = 2000
"""Of one transaction: callers' batches wait for it, and they may be as large."""
MAX_WAITING: Final = 64
"""Transactions that wait for their turn."""


class InsertLikes(Transaction):
    """Inserts those likes that this node may write. Afterwards ``refused`` and ``existing`` say which it did not."""

    def __init__(
        self,
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        slots: Sequence[int],
        epochs: Sequence[int],
        like_times: Sequence[int],
        marks: PurgeMarks,
        user_marks: UserPurgeMarks,
        numbers: PostNumbers,
    ) -> None:
        """``like_times`` in µs, 0 for none; empty for none at all."""
        super().__init__()
        self._post_ids = post_ids
        self._user_ids = user_ids
        self._slots = slots
        self._epochs = epochs
        self._like_times = like_times
        self._marks = marks
        self._user_marks = user_marks
        self._numbers = numbers
        self._learned: Mapping[str, int] = {}
        self.revisions = len(post_ids)
        self.refused: dict[int, OpCode.ValueType] = {}
        """Position → why."""
        self.existing: list[int] = []
        """Positions whose edge was there before."""

    def __repr__(self) -> str:
        return f"<InsertLikes of {len(self._post_ids)}>"

    def admit(self, ownership: Ownership) -> None:
        self.refused = ownership.refused_writes(self._slots, self._epochs)
        if self._marks:
            for position in self._marks.refused([True] * len(self._post_ids), self._post_ids):
                self.refused.setdefault(position, OP_CODE_POST_BEING_PURGED)
        if self._user_marks:
            for position in self._user_marks.refused(self._user_ids, self._slots):
                self.refused.setdefault(position, OP_CODE_USER_BEING_PURGED)

    async def execute(self, connection: Connection, base_rev: int) -> None:
        # Partition by partition and post by post, as the indexes are; the likes of a post keep their order.
        positions = sorted(
            (p for p in range(len(self._post_ids)) if p not in self.refused),
            key=lambda p: (self._slots[p], self._post_ids[p]),
        )
        self.existing = []
        if not positions:
            return
        slots = [self._slots[p] for p in positions]
        await edge_store.load_numbers(connection, self._numbers, set(slots))
        done = await edge_store.inserted_likes(
            await edge_store.import_likes(
                connection,
                base_rev,
                [self._post_ids[p] for p in positions],
                [self._user_ids[p] for p in positions],
                slots,
                [self._like_times[p] for p in positions] if any(self._like_times) else [],
                self._numbers,
            )
        )
        self._learned = done.numbers
        if done.positions is not None:
            self.existing = sorted(p for n, p in enumerate(positions) if n not in done.positions)
        self.posts = done.posts

    def committed(self) -> None:
        self._numbers.learn(self._learned, dict(zip(self._post_ids, self._slots, strict=True)))

    def batch(self, base_rev: int) -> Batch:
        slots = dict(zip(self._post_ids, self._slots, strict=True))
        batch = Batch(base_rev)
        batch.post_ids = list(self.posts)
        batch.slots = [slots[post_id] for post_id in self.posts]
        batch.posts = self.posts
        return batch


class Imports:
    """Of one node."""

    def __init__(self, ownership: Ownership, writer: Writer) -> None:
        self._ownership = ownership
        self._writer = writer
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Imports, {self._waiting} waiting>"

    async def insert(
        self,
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        epochs: Sequence[int],
        like_times: Sequence[int],
    ) -> InsertLikes:
        """Inserts at most MAX_LIKES likes; the result is what became of them. Raises as ``Writer.maintain``.

        Raises ShardOverloaded when too many wait; then nothing was done.
        """
        if self._waiting >= MAX_WAITING:
            raise ShardOverloaded(retry_after=0.1)
        work = InsertLikes(
            post_ids,
            user_ids,
            self._ownership.slots_of(post_ids),
            epochs,
            like_times,
            self._writer.purge_marks,
            self._writer.user_purge_marks,
            self._writer.post_numbers,
        )
        self._waiting += 1
        try:
            await self._writer.maintain(work)
        finally:
            self._waiting -= 1
        return work
