"""The likes in Postgres: one method per step of a writing transaction, and the reads.

Nothing here decides anything; ``writer`` and ``reads`` do. Statements stand in queries.sql.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from psycopg import AsyncConnection, AsyncCursor

from shard_node.arrays import bool_array, int_array, nullable_int_array, text_array
from shard_node.fold import EdgeKey, EdgeState, PostChange
from shard_node.ownership import HeldSlot, SlotState
from shard_node.purge_keys import KIND_AT, PLACES
from shard_node.queries import FEW_SLOTS, QUERIES

Connection = AsyncConnection[Any]
Cursor = AsyncCursor[Any]


class PostCount(NamedTuple):
    """Version and count of a post at one moment."""

    version: int
    like_count: int


NEVER_CHANGED = PostCount(0, 0)


class Place(NamedTuple):
    """Of a like among those of its post: since when, in µs since 1970, and its revision."""

    like_time: int
    rev: int


@dataclass(frozen=True, slots=True)
class Fence:
    """What a writing process knows of the writer row; a transaction of another state must write nothing."""

    generation: int
    slots_seq: int


class FenceLost(Exception):
    """The writer row is of another generation or slots_seq."""


class InsertedLikes(NamedTuple):
    """What insert_likes did: the posts as they are now, and which edges were inserted (None: all of them)."""

    posts: dict[str, PostCount]
    edges: set[EdgeKey] | None


async def execute(
    connection: Connection, name: str, parameters: Mapping[str, object] | None = None
) -> Cursor:
    """Executes a named statement, prepared, with results in binary."""
    return await connection.execute(QUERIES[name], parameters, prepare=True, binary=True)


async def execute_for_slots(
    connection: Connection, name: str, parameters: Mapping[str, object], slots: Sequence[int]
) -> Cursor:
    """Executes a named statement in its form for these slots, which it also gets as an array."""
    distinct = set(slots)
    parameters = {**parameters, "slots": int_array(slots)}
    if not 0 < len(distinct) <= FEW_SLOTS:
        return await execute(connection, name, parameters)
    listed = [*distinct, *repeat(slots[0], FEW_SLOTS - len(distinct))]
    return await execute(
        connection, f"{name}_of_few_slots", parameters | {f"slot_{n}": slot for n, slot in enumerate(listed)}
    )


async def raise_fence(connection: Connection, fence: Fence, last_rev: int) -> Cursor:
    """First statement of a writing transaction. ``check_fence`` judges its result."""
    return await execute(
        connection,
        "fence",
        {"last_rev": last_rev, "generation": fence.generation, "slots_seq": fence.slots_seq},
    )


async def beat(connection: Connection, fence: Fence) -> Cursor:
    """A writing transaction that writes nothing but a sign of life. ``check_fence`` judges its result."""
    return await execute(connection, "beat", {"generation": fence.generation, "slots_seq": fence.slots_seq})


async def check_fence(cursor: Cursor) -> None:
    """Raises FenceLost when the statement found no writer row of its fence."""
    if await cursor.fetchone() is None:
        raise FenceLost


async def insert_likes(
    connection: Connection,
    fence: Fence,
    base_rev: int,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    intents: Sequence[int],
) -> Cursor:
    """Inserts likes of distinct edges behind the fence, in one statement that may be a transaction of its own.

    The like at position i (from 0) has revision ``base_rev`` + i + 1. ``intents`` may be empty: none has one.
    ``inserted_likes`` reads the result.
    """
    return await execute(
        connection,
        "insert_likes",
        {
            "last_rev": base_rev + len(post_ids),
            "generation": fence.generation,
            "slots_seq": fence.slots_seq,
            "base_rev": base_rev,
            "post_ids": text_array(post_ids),
            "user_ids": text_array(user_ids),
            "slots": int_array(slots),
            "intents": nullable_int_array([intent or None for intent in intents]) if any(intents) else "{}",
            "operations": len(post_ids),
        },
    )


async def inserted_likes(cursor: Cursor) -> InsertedLikes:
    """What an ``insert_likes`` did. Raises FenceLost when it did nothing, because this process may not write."""
    rows = await cursor.fetchall()
    if not rows:
        raise FenceLost
    posts = {row[0]: PostCount(row[2], row[3]) for row in rows if row[2] is not None}
    edges = {(row[0], row[1]) for row in rows if row[1] is not None}
    return InsertedLikes(posts, None if posts and not edges else edges)


async def read_edges(
    connection: Connection, post_ids: Sequence[str], user_ids: Sequence[str], slots: Sequence[int]
) -> Cursor:
    """Reads edges; one that is asked for twice is answered twice. ``edges_read`` reads the result."""
    return await execute_for_slots(
        connection, "read_edges", {"post_ids": text_array(post_ids), "user_ids": text_array(user_ids)}, slots
    )


async def edges_read(cursor: Cursor, slots: Mapping[EdgeKey, int]) -> dict[EdgeKey, EdgeState]:
    """The edges that a ``read_edges`` found; ``slots`` says the slot of each edge."""
    return {
        (post_id, user_id): EdgeState(slots[post_id, user_id], liked, rev, intent, first_rev)
        for post_id, user_id, liked, rev, intent, first_rev in await cursor.fetchall()
    }


async def write_edges(connection: Connection, edges: Mapping[EdgeKey, EdgeState]) -> None:
    """Writes the edges as they are given."""
    states = list(edges.values())
    await execute(
        connection,
        "write_edges",
        {
            "revs": int_array([state.rev for state in states]),
            "intents": int_array([state.intent for state in states]),
            "first_revs": nullable_int_array([state.first_rev for state in states]),
            "slots": int_array([state.slot for state in states]),
            "liked": bool_array([state.liked for state in states]),
            "post_ids": text_array([post_id for post_id, _ in edges]),
            "user_ids": text_array([user_id for _, user_id in edges]),
        },
    )


async def count_changes(connection: Connection, posts: Mapping[str, PostChange]) -> Cursor:
    """Applies the changes to the posts; ``posts_read`` reads what they are then."""
    return await execute(
        connection,
        "count_changes",
        {
            "changes": int_array([change.changes for change in posts.values()]),
            "deltas": int_array([change.delta for change in posts.values()]),
            "slots": int_array([change.slot for change in posts.values()]),
            "post_ids": text_array(list(posts)),
        },
    )


async def read_posts(connection: Connection, slots: Mapping[str, int]) -> Cursor:
    """Reads posts, given with their slots; ``posts_read`` reads the result."""
    return await execute_for_slots(
        connection, "read_posts", {"post_ids": text_array(list(slots))}, list(slots.values())
    )


async def posts_read(cursor: Cursor) -> dict[str, PostCount]:
    """The posts of a ``count_changes`` or ``read_posts``; one that never changed is absent."""
    return {post_id: PostCount(version, count) for post_id, version, count in await cursor.fetchall()}


async def read_liked(
    connection: Connection, post_ids: Sequence[str], user_ids: Sequence[str], slots: Sequence[int]
) -> dict[int, int]:
    """Position (from 0) → since when, in µs since 1970, of the edges that are liked."""
    cursor = await execute_for_slots(
        connection, "read_liked", {"post_ids": text_array(post_ids), "user_ids": text_array(user_ids)}, slots
    )
    return {position - 1: like_time for position, like_time in await cursor.fetchall()}


async def list_likers(
    connection: Connection, slot: int, post_id: str, before: Place, limit: int
) -> tuple[PostCount, list[tuple[str, Place]]]:
    """The post, and its likes below ``before`` (user and place), newest first, all of one moment."""
    cursor = await execute(
        connection,
        "list_likers",
        {
            "slot": slot,
            "post_id": post_id,
            "before_time": before.like_time,
            "before": before.rev,
            "limit": limit,
        },
    )
    post = NEVER_CHANGED
    likes: list[tuple[str, Place]] = []
    for user_id, first, second in await cursor.fetchall():
        if user_id is None:
            post = PostCount(first, second)
        else:
            likes.append((user_id, Place(first, second)))
    return post, likes


async def held_slots(connection: Connection) -> Cursor:
    """Reads what this database says of its slots; ``slots_held`` reads the result."""
    return await execute(connection, "held_slots")


async def slots_held(cursor: Cursor) -> dict[int, HeldSlot]:
    """What a ``held_slots`` found."""
    return {
        slot: HeldSlot(epoch, SlotState(state), move, attempt, swept_intent)
        for slot, epoch, state, move, attempt, swept_intent in await cursor.fetchall()
    }


async def add_slots(connection: Connection, epochs: Mapping[int, int]) -> None:
    """Records that this database owns these slots (slot → epoch) from the end of the transaction on."""
    await execute(
        connection,
        "add_slots",
        {"slots": int_array(list(epochs)), "epochs": int_array(list(epochs.values()))},
    )


async def raise_slots_seq(connection: Connection, fence: Fence, last_rev: int = 0) -> Cursor:
    """First statement of a transaction that changes the slots. Its DivisionByZero means that the fence is lost.

    ``last_rev``: revisions go on above it. ``slots_seq_raised`` reads the result.
    """
    return await execute(
        connection,
        "raise_slots_seq",
        {"last_rev": last_rev, "generation": fence.generation, "slots_seq": fence.slots_seq},
    )


async def slots_seq_raised(cursor: Cursor) -> tuple[int, int]:
    """The new slots_seq, and the highest revision."""
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


class Change(NamedTuple):
    """An edge at a place of its slot's feed: ``place`` is its ``rev``, or its ``first_rev`` if it has changed since.

    ``first_rev`` is None for an edge that was never liked. Version and count are the post's, 0 if it never changed.
    ``like_time``: since when the edge is so, in µs since 1970.

    Or a purge that was done at that place: of a post, then without a user, or of a user, without a post.
    """

    slot: int
    place: int
    rev: int
    first_rev: int | None
    liked: bool
    post_id: str
    user_id: str
    version: int
    like_count: int
    like_time: int

    @property
    def is_purge(self) -> bool:
        """Whether it is a purge: everything of the post, or of the user in this slot, that came before is void."""
        return not (self.post_id and self.user_id)


class SlotMoment(NamedTuple):
    """A slot at the moment of a ``read_changes``. ``last_rev``: the highest revision that the node had issued.

    ``purged_rev``, ``swept_rev``: above them nothing was purged, or swept, in the slot.
    """

    epoch: int
    owned: bool
    last_rev: int
    purged_rev: int = 0
    swept_rev: int = 0


MOST_CHANGES = 2000
"""Most changes of each kind that ``read_changes`` gives for a slot: the limit that stands in the statement."""


async def read_changes(
    connection: Connection, positions: Mapping[int, int], limit: int, *, purges: bool
) -> tuple[dict[int, SlotMoment], list[Change]]:
    """What has changed in slots (slot → revision) after a revision: the slots that are held here, and changes.

    All of one moment. Per slot at most ``limit`` edges by ``rev``, as many by ``first_rev``, and as many purges, the
    lowest ones. Purges only with ``purges``: whoever did without may not use the rest for a slot whose ``purged_rev``
    is above the position.
    """
    cursor = await execute_for_slots(
        connection,
        "read_changes_and_purges" if purges else "read_changes",
        {
            "positions": int_array(list(positions.values())),
            "limit": min(limit, MOST_CHANGES),
        }
        | ({"places": PLACES, "kind_at": KIND_AT} if purges else {}),
        list(positions),
    )
    moments: dict[int, SlotMoment] = {}
    changes: list[Change] = []
    for row in await cursor.fetchall():
        if row[5] is None:
            moments[row[0]] = SlotMoment(row[2], row[4], row[1], row[3], row[9])
        else:
            changes.append(Change._make(row))
    return moments, changes
