"""The likes in Postgres: one function per step of a writing transaction, and the reads.

Nothing here decides anything; ``writer`` and ``reads`` do. Statements stand in queries.sql.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection, AsyncCursor

from shard_node.arrays import id_array, int_array
from shard_node.ownership import HeldSlot, SlotState
from shard_node.packed_ids import pack, unpack
from shard_node.purge_keys import KIND_AT, PLACES
from shard_node.queries import LISTED, QUERIES, query

_NO_SLOT: Final = -1

Connection = AsyncConnection[Any]
Cursor = AsyncCursor[Any]


class PostCount(NamedTuple):
    """Version and count of a post at one moment."""

    version: int
    like_count: int


NEVER_CHANGED = PostCount(0, 0)


class Place(NamedTuple):
    """Of a like among those of its post: since when, in µs since 1970, and its revision. ``like_place`` in SQL."""

    like_time: int
    rev: int


@dataclass(frozen=True, slots=True)
class Fence:
    """What a writing process knows of the writer row; a transaction of another state must write nothing."""

    generation: int
    slots_seq: int


class FenceLost(Exception):
    """The writer row is of another generation or slots_seq."""


async def execute(
    connection: Connection, name: str, parameters: Mapping[str, object] | None = None
) -> Cursor:
    """Executes a named statement, prepared, with results in binary."""
    return await connection.execute(QUERIES[name], parameters, prepare=True, binary=True)


async def execute_among(
    connection: Connection,
    name: str,
    parameters: Mapping[str, object],
    slots: Collection[int] | None = None,
    unknown_in: Collection[int] | None = None,
) -> Cursor:
    """Executes a named statement in its form for these slots, and for posts that are unknown in those; None: in any."""
    listed = dict(parameters)
    form = query(name, slots=_listed(listed, "slot", slots), unknown=_listed(listed, "unknown", unknown_in))
    return await connection.execute(form, listed, prepare=True, binary=True)


def _listed(parameters: dict[str, object], name: str, slots: Collection[int] | None) -> int | None:
    """How many slots the form lists; adds them to the parameters."""
    size = None if slots is None else next((size for size in LISTED if len(slots) <= size), None)
    if slots and size:
        for n, slot in enumerate([*slots, *[_NO_SLOT] * (size - len(slots))]):
            parameters[f"{name}_{n}"] = slot
    return size


async def execute_for_slots(
    connection: Connection, name: str, parameters: Mapping[str, object], slots: Sequence[int]
) -> Cursor:
    """Executes a named statement in its form for these slots, which it also gets as an array."""
    return await execute_among(connection, name, {**parameters, "slots": int_array(slots)}, set(slots))


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


async def read_posts(connection: Connection, slots: Mapping[str, int]) -> Cursor:
    """Reads posts, given with their slots; ``posts_read`` reads the result."""
    return await execute_for_slots(
        connection, "read_posts", {"post_ids": id_array(list(slots))}, list(slots.values())
    )


async def posts_read(cursor: Cursor) -> dict[str, PostCount]:
    """The posts of a statement that answers posts; one that never changed is absent."""
    return {unpack(post_id): PostCount(version, count) for post_id, version, count in await cursor.fetchall()}


async def list_likers(
    connection: Connection, slot: int, post_id: str, before: Place, limit: int
) -> tuple[PostCount, list[tuple[str, Place]]]:
    """The post, and its likes below ``before`` (user and place), newest first, all of one moment."""
    cursor = await execute(
        connection,
        "list_likers",
        {
            "slot": slot,
            "post_id": pack(post_id),
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
            likes.append((unpack(user_id), Place(first, second)))
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
            slot, place, rev, first_rev, liked, post_id, user_id, *rest = row
            post = unpack(post_id) if post_id else ""
            user = unpack(user_id) if user_id else ""
            changes.append(Change(slot, place, rev, first_rev, liked, post, user, *rest))
    return moments, changes
