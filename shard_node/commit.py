"""One group commit: the data of a batch, and the transaction that executes it.

A batch has two parts. *Single likes* are edges that occur once in the batch, in a like: one statement checks the fence,
inserts them and counts the posts; it needs no look at what it found, so it is a transaction of its own. All other
edges, and single likes that turn out to exist, are read, folded in memory (``fold``) and written back.
A batch without such edges costs one round trip; one with them two or three.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from time import monotonic

from psycopg.errors import DivisionByZero

from likering.serving.tracing import Span
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_UNSPECIFIED,
    OP_OUTCOME_CHANGED,
    OP_OUTCOME_UNSPECIFIED,
    OpCode,
    OpOutcome,
)
from shard_node import edge_store, store
from shard_node.fold import EdgeKey, EdgeState, Operation, fold
from shard_node.post_numbers import PostNumbers
from shard_node.store import Connection, Fence, PostCount

SUCCEEDED = OP_CODE_UNSPECIFIED


class WriteUnit:
    """The writes of one Execute call: columns in, columns out, and a future that is done when they are filled."""

    __slots__ = (
        "arrived",
        "began",
        "codes",
        "committed",
        "counts",
        "done",
        "epochs",
        "intents",
        "likes",
        "outcomes",
        "post_ids",
        "slots",
        "span",
        "user_ids",
        "versions",
    )

    def __init__(
        self,
        likes: Sequence[bool],
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        slots: Sequence[int],
        epochs: Sequence[int],
        intents: Sequence[int],
    ) -> None:
        """``likes``: True for a like, False for an unlike. ``intents``: µs, 0 for none; empty for none at all."""
        self.likes = likes
        self.post_ids = post_ids
        self.user_ids = user_ids
        self.slots = slots
        self.epochs = epochs
        self.intents = intents
        self.arrived = monotonic()
        self.began = self.committed = self.arrived
        """Of the transaction that it came into, once it has ended."""
        self.span: Span | None = None
        """Of the call, while traces are on."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.codes: list[OpCode.ValueType] = []
        self.outcomes: list[OpOutcome.ValueType] = []
        self.counts: list[int] = []
        self.versions: list[int] = []

    def __len__(self) -> int:
        return len(self.post_ids)

    def __repr__(self) -> str:
        return f"<WriteUnit of {len(self)}{' done' if self.done.done() else ''}>"

    def refuse(self, code: OpCode.ValueType) -> None:
        """Answers every operation with the same code."""
        size = len(self)
        self.began = self.committed = monotonic()  # all that it did was to wait
        self.answer([code] * size, [OP_OUTCOME_UNSPECIFIED] * size, [0] * size, [0] * size)

    def answer(
        self,
        codes: list[OpCode.ValueType],
        outcomes: list[OpOutcome.ValueType],
        counts: list[int],
        versions: list[int],
    ) -> None:
        """Fills the result columns and wakes whoever waits. ``codes`` may be empty: all succeeded."""
        if not self.done.done():
            self.codes, self.outcomes, self.counts, self.versions = codes, outcomes, counts, versions
            self.done.set_result(None)


class Batch:
    """The columns of all units of one group commit, and their results."""

    def __init__(self, base_rev: int) -> None:
        """``base_rev``: the highest revision issued so far; the batch takes those that follow."""
        self.last_rev = base_rev
        self.units: list[WriteUnit] = []
        self.began = self.ended = monotonic()
        """Of its transaction."""
        self.likes: list[bool] = []
        self.post_ids: list[str] = []
        self.user_ids: list[str] = []
        self.slots: list[int] = []
        self.intents: list[int] = []
        self.refused: dict[int, OpCode.ValueType] = {}
        """Position → why it is not executed."""
        self.uncommitted: set[int] = set()
        """Positions that are to be executed and not known to be committed."""
        self.posts: dict[str, PostCount] = {}
        """What the commit made of the posts that it changed or read."""
        self.outcomes: list[OpOutcome.ValueType] = []
        self.counts: list[int] = []
        self.versions: list[int] = []

    def __len__(self) -> int:
        return len(self.post_ids)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} in {len(self.units)} units, {len(self.uncommitted)} uncommitted>"

    def add(self, unit: WriteUnit, refused: Mapping[int, OpCode.ValueType]) -> None:
        """Adds a unit. ``refused``: positions of the unit that are not to be executed, and why."""
        offset, size = len(self), len(unit)
        self.units.append(unit)
        self.likes += unit.likes
        self.post_ids += unit.post_ids
        self.user_ids += unit.user_ids
        self.slots += unit.slots
        self.intents += unit.intents or [0] * size
        self.outcomes += [OP_OUTCOME_UNSPECIFIED] * size
        self.counts += [0] * size
        self.versions += [0] * size
        self.uncommitted.update(range(offset, offset + size))
        for position, code in refused.items():
            self.refused[offset + position] = code
            self.uncommitted.discard(offset + position)

    def parts(self) -> tuple[list[int], list[int]]:
        """Positions of the single likes, and of all other operations to execute."""
        edges = list(zip(self.post_ids, self.user_ids, strict=True))
        if not self.refused and all(self.likes) and len(set(edges)) == len(edges):
            return list(range(len(edges))), []
        occurrences = Counter(edges)
        singles: list[int] = []
        others: list[int] = []
        for position in sorted(self.uncommitted):
            single = self.likes[position] and occurrences[edges[position]] == 1
            (singles if single else others).append(position)
        return singles, others

    def committed(self, positions: Sequence[int], posts: Mapping[str, PostCount]) -> None:
        """Notes that a transaction has committed these positions, and what it made of these posts."""
        if len(positions) == len(self):
            self.uncommitted.clear()
        else:
            self.uncommitted.difference_update(positions)
        self.posts.update(posts)

    @property
    def slot_of(self) -> dict[str, int]:
        """The slot of each post."""
        return dict(zip(self.post_ids, self.slots, strict=True))

    def slot_of_posts(self) -> dict[str, int]:
        """The slot of each post of ``posts``."""
        slots = self.slot_of
        return {post_id: slots[post_id] for post_id in self.posts}

    def answer(self, uncommitted: OpCode.ValueType) -> None:
        """Answers every unit; what is not known to be committed gets this code."""
        codes: list[OpCode.ValueType] = []
        if self.refused or self.uncommitted:
            codes = [SUCCEEDED] * len(self)
            for position in self.uncommitted:
                codes[position] = uncommitted
            for position, code in self.refused.items():
                codes[position] = code
        start = 0
        for unit in self.units:
            end = start + len(unit)
            unit.began, unit.committed = self.began, self.ended
            unit.answer(
                codes[start:end], self.outcomes[start:end], self.counts[start:end], self.versions[start:end]
            )
            start = end


async def commit(connection: Connection, fence: Fence, batch: Batch, numbers: PostNumbers) -> None:
    """Executes and commits the batch, and fills its results; ``numbers`` learns of its posts.

    ``connection`` must be in autocommit mode and in no transaction. Raises FenceLost when this process may not write;
    after any error, ``batch.uncommitted`` holds the positions that are not known to be committed.
    """
    await edge_store.load_numbers(connection, numbers, set(batch.slots))
    singles, others = batch.parts()
    if singles and not others:
        others = await _commit_singles(connection, fence, batch, numbers, singles)
        singles = []
    if others:
        try:
            await _commit_folded(connection, fence, batch, numbers, singles, others)
        except DivisionByZero:
            await connection.rollback()
            await _commit_folded(connection, fence, batch, numbers, [], sorted(singles + others))


async def _commit_singles(
    connection: Connection, fence: Fence, batch: Batch, numbers: PostNumbers, singles: list[int]
) -> list[int]:
    """Commits single likes by one statement. Returns the positions of those that it has not executed.

    They are those whose edge existed; or all of them, if there was such an edge of a post whose number is not known.
    """
    try:
        inserting = await _insert_singles(connection, fence, batch, numbers, singles)
    except DivisionByZero:
        return singles
    result = await edge_store.inserted_likes(inserting)
    inserted, existing = _count_singles(batch, singles, result)
    batch.committed(inserted, result.posts)
    if result.numbers:
        numbers.learn(result.numbers, batch.slot_of)
    return existing


async def _commit_folded(
    connection: Connection,
    fence: Fence,
    batch: Batch,
    numbers: PostNumbers,
    singles: list[int],
    others: list[int],
) -> None:
    """Commits everything else in one transaction, single likes of the same batch first."""
    async with connection.pipeline():
        await connection.execute("BEGIN")
        # A single like may turn out to exist, and then takes a second revision.
        highest = batch.last_rev + 2 * len(singles) + len(others)
        fenced = await store.raise_fence(connection, fence, highest)
        if singles:
            inserting = await _insert_singles(connection, fence, batch, numbers, singles)
        reading = await _read_edges(connection, batch, numbers, others)
    try:
        await store.check_fence(fenced)
    except store.FenceLost:
        await connection.rollback()
        raise
    known = await _edges_read(reading, batch, others)
    posts: dict[str, PostCount] = {}
    learned: dict[str, int] = {}
    inserted: list[int] = []
    if singles:
        result = await edge_store.inserted_likes(inserting)
        inserted, existing = _count_singles(batch, singles, result)
        posts |= result.posts
        learned |= result.numbers
        numbers.used(learned, batch.slot_of)
        if existing:
            known |= await _edges_read(
                await _read_edges(connection, batch, numbers, existing), batch, existing
            )
            others = sorted(others + existing)

    folded = fold(_operations(batch, others), known)
    # Revisions go on above what the writer row says: whoever has read that row, and seen nothing more up to there, has
    # not missed anything (``changes``).
    batch.last_rev = highest
    written = {post_id: folded.posts[post_id] for post_id, _ in folded.edges}
    untouched = {post_id: change.slot for post_id, change in folded.posts.items() if post_id not in written}
    async with connection.pipeline():
        if written:
            writing = await edge_store.write_edges(connection, folded.edges, written, numbers)
        if untouched:
            looking = await store.read_posts(connection, untouched)
        await connection.execute("COMMIT")
    if written:
        changed, also_learned = await edge_store.edges_written(writing)
        posts |= changed
        learned |= also_learned
    if untouched:
        posts |= await store.posts_read(looking)
    for position, answer in zip(others, folded.answers, strict=True):
        post_id = batch.post_ids[position]
        after = posts.get(post_id, store.NEVER_CHANGED)
        change = folded.posts[post_id]
        batch.outcomes[position] = answer.outcome
        batch.versions[position] = after.version - change.changes + answer.changes
        batch.counts[position] = after.like_count - change.delta + answer.delta
    batch.committed(inserted + others, posts)
    numbers.learn(learned, batch.slot_of)


async def _insert_singles(
    connection: Connection, fence: Fence, batch: Batch, numbers: PostNumbers, singles: list[int]
) -> edge_store.Inserting:
    base_rev = batch.last_rev
    batch.last_rev += len(singles)
    if len(singles) == len(batch):
        columns = batch.post_ids, batch.user_ids, batch.slots, batch.intents
    else:
        columns = (
            [batch.post_ids[i] for i in singles],
            [batch.user_ids[i] for i in singles],
            [batch.slots[i] for i in singles],
            [batch.intents[i] for i in singles],
        )
    return await edge_store.insert_likes(connection, fence, base_rev, *columns, numbers)


def _count_singles(
    batch: Batch, singles: list[int], result: edge_store.InsertedLikes
) -> tuple[list[int], list[int]]:
    """Fills the results of the single likes that were inserted. Returns their positions, and those of the others."""
    existing: list[int] = []
    inserted = singles
    if result.positions is not None:
        inserted = []
        for n, position in enumerate(singles):
            (inserted if n in result.positions else existing).append(position)
    if len(result.posts) == len(inserted):  # each post once: nothing to count forward
        for position in inserted:
            batch.versions[position], batch.counts[position] = result.posts[batch.post_ids[position]]
    elif len(result.posts) == 1 and len(inserted) == len(batch):  # one viral post: nothing to look up
        (after,) = result.posts.values()
        batch.versions = list(range(after.version - len(inserted) + 1, after.version + 1))
        batch.counts = list(range(after.like_count - len(inserted) + 1, after.like_count + 1))
    else:
        still_to_come = Counter([batch.post_ids[position] for position in inserted])
        for position in inserted:
            post_id = batch.post_ids[position]
            still_to_come[post_id] -= 1
            after = result.posts[post_id]
            batch.versions[position] = after.version - still_to_come[post_id]
            batch.counts[position] = after.like_count - still_to_come[post_id]
    if len(inserted) == len(batch):
        batch.outcomes = [OP_OUTCOME_CHANGED] * len(batch)
    else:
        for position in inserted:
            batch.outcomes[position] = OP_OUTCOME_CHANGED
    return inserted, existing


async def _read_edges(
    connection: Connection, batch: Batch, numbers: PostNumbers, positions: list[int]
) -> store.Cursor:
    return await edge_store.read_edges(
        connection,
        [batch.post_ids[i] for i in positions],
        [batch.user_ids[i] for i in positions],
        [batch.slots[i] for i in positions],
        numbers,
    )


async def _edges_read(cursor: store.Cursor, batch: Batch, positions: list[int]) -> dict[EdgeKey, EdgeState]:
    return {
        (batch.post_ids[i], batch.user_ids[i]): state
        for i, state in await edge_store.edges_read(cursor, positions, [batch.slots[i] for i in positions])
    }


def _operations(batch: Batch, positions: list[int]) -> list[Operation]:
    first_rev = batch.last_rev + 1
    batch.last_rev += len(positions)
    return [
        Operation(
            batch.post_ids[i],
            batch.user_ids[i],
            batch.slots[i],
            batch.likes[i],
            batch.intents[i],
            first_rev + n,
        )
        for n, i in enumerate(positions)
    ]
