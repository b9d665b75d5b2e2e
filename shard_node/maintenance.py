"""Transactions of the writer's queue besides the likes' own: bounded, behind the same fence."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from likering.shard.v1.shard_service_pb2 import OpCode
from shard_node import store
from shard_node.commit import Batch
from shard_node.ownership import Ownership
from shard_node.store import Connection, Fence, PostCount


class SlotRefused(Exception):
    """The slot cannot be read or written here at that epoch; ``code`` is for whoever asked."""

    def __init__(self, code: OpCode.ValueType) -> None:
        super().__init__(OpCode.Name(code))
        self.code = code


class Transaction(ABC):
    """One such transaction, as ``Writer.maintain`` takes it."""

    revisions = 0
    """How many revisions it takes, at most."""

    def __init__(self) -> None:
        self.posts: dict[str, PostCount] = {}
        """What it made of the posts whose version it changed."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    def admit(self, ownership: Ownership) -> None:
        """Looks, in the writer's turn, what may be written here. Raises SlotRefused when nothing may.

        May come again, as ``execute``.
        """

    @abstractmethod
    async def execute(self, connection: Connection, base_rev: int) -> None:
        """Does it, in a transaction that has passed the fence, and with revisions above ``base_rev``.

        May come again: after a rollback.
        """

    def committed(self) -> None:  # noqa: B027 - most have nothing to note
        """It has been committed, and nothing else of the queue was executed since."""

    def succeed(self) -> None:
        """Tells whoever waits."""
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Tells whoever waits that it was not executed, or that nobody knows."""
        if not self.done.done():
            self.done.set_exception(error)

    @abstractmethod
    def batch(self, base_rev: int) -> Batch:
        """What it did, in the form in which commits are published."""


class Maintenance(Transaction):
    """On rows of one slot."""

    def __init__(self, slot: int, epoch: int) -> None:
        super().__init__()
        self.slot = slot
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in slot {self.slot} at epoch {self.epoch}>"

    def admit(self, ownership: Ownership) -> None:
        for code in ownership.refused_writes([self.slot], [self.epoch]).values():
            raise SlotRefused(code)

    def batch(self, base_rev: int) -> Batch:
        batch = Batch(base_rev)
        batch.post_ids = list(self.posts)
        batch.slots = [self.slot] * len(self.posts)
        batch.posts = self.posts
        return batch


async def transact(work: Transaction, connection: Connection, fence: Fence, base_rev: int) -> None:
    """Executes and commits. Raises FenceLost, and what the work raises; then nothing has changed."""
    work.posts = {}
    async with connection.transaction():
        await store.check_fence(await store.raise_fence(connection, fence, base_rev + work.revisions))
        await work.execute(connection, base_rev)
