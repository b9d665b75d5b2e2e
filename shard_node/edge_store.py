"""Edges in Postgres, and their posts with them: one function per step of a writing transaction, and the look-ups.

An edge's row names its post by the post's number. So each statement is given posts once each, with those numbers that
are known, and edges by the places of their posts among them. As in ``store``, nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

from shard_node.arrays import bool_array, bytes_array, id_array, int_array, nullable_int_array
from shard_node.edge_rows import EdgeRow, row_of, state_of
from shard_node.fold import EdgeKey, EdgeState, PostChange
from shard_node.packed_ids import pack, unpack
from shard_node.post_numbers import PostNumbers
from shard_node.store import (
    Connection,
    Cursor,
    Fence,
    FenceLost,
    PostCount,
    execute,
    execute_among,
    execute_for_slots,
)

T = TypeVar("T")


class Inserting(NamedTuple):
    """A statement that inserts likes, under way; and its posts, by what they are packed to."""

    cursor: Cursor
    posts: Mapping[bytes, str]


class InsertedLikes(NamedTuple):
    """The posts that were changed, new numbers of posts, and which likes were inserted, from 0 (None: all of them)."""

    posts: dict[str, PostCount]
    numbers: dict[str, int]
    positions: set[int] | None


async def load_numbers(connection: Connection, numbers: PostNumbers, slots: Collection[int]) -> None:
    """Has ``numbers`` know the highest ones of these slots, as far as it lacks them."""
    lacking = list(numbers.lacks(slots))
    if lacking:
        cursor = await execute_for_slots(connection, "highest_numbers", {}, lacking)
        for slot, number in await cursor.fetchall():
            numbers.highest(slot, number)


async def insert_likes(
    connection: Connection,
    fence: Fence,
    base_rev: int,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    intents: Sequence[int],
    numbers: PostNumbers,
) -> Inserting:
    """Inserts likes of distinct edges behind the fence, in one statement that may be a transaction of its own.

    The like at position i (from 0) has revision ``base_rev`` + i + 1. ``intents`` may be empty: none has one.
    ``numbers`` lacks none of the slots. ``inserted_likes`` reads the result. Raises DivisionByZero, and has done
    nothing, if a post is unknown to ``numbers`` and one of its edges exists: this statement could not count it.
    """
    slot_of = dict(zip(post_ids, slots, strict=True))
    packed = [pack(post_id) for post_id in slot_of]
    known = numbers.known(slot_of)
    cursor = await execute(
        connection,
        "insert_likes_of_unknown_posts" if None in known else "insert_likes",
        {
            "last_rev": base_rev + len(post_ids),
            "generation": fence.generation,
            "slots_seq": fence.slots_seq,
            "base_rev": base_rev,
            "intents": nullable_int_array([intent or None for intent in intents]) if any(intents) else "{}",
            **_posts(packed, slot_of, known, numbers),
            **_likes(slot_of, post_ids, user_ids),
        },
    )
    return Inserting(cursor, dict(zip(packed, slot_of, strict=True)))


async def import_likes(
    connection: Connection,
    base_rev: int,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    like_times: Sequence[int],
    numbers: PostNumbers,
) -> Inserting:
    """As ``insert_likes``, in a transaction that has passed the fence; edges need not be distinct, and may exist.

    ``like_times`` in µs, 0 for none; empty for none at all.
    """
    slot_of = dict(zip(post_ids, slots, strict=True))
    packed = [pack(post_id) for post_id in slot_of]
    known = numbers.known(slot_of)
    cursor = await execute_among(
        connection,
        "import_likes",
        {
            "base_rev": base_rev,
            "times": nullable_int_array([time or None for time in like_times]),
            **_posts(packed, slot_of, known, numbers),
            **_likes(slot_of, post_ids, user_ids),
        },
        unknown_in=_unknown_in(slot_of, known),
    )
    return Inserting(cursor, dict(zip(packed, slot_of, strict=True)))


def _posts(
    packed: Sequence[bytes], slot_of: Mapping[str, int], known: Sequence[int | None], numbers: PostNumbers
) -> dict[str, object]:
    """Posts of a statement that may insert some of them."""
    return {
        "post_ids": bytes_array(packed),
        "slots": int_array(list(slot_of.values())),
        "numbers": nullable_int_array(known),
        "next_numbers": int_array(numbers.next(slot_of.values())) if None in known else "{}",
    }


def _likes(slot_of: Mapping[str, int], post_ids: Sequence[str], user_ids: Sequence[str]) -> dict[str, object]:
    """The likes of those posts."""
    place = {post_id: place for place, post_id in enumerate(slot_of, 1)}
    return {
        "likes": int_array(list(Counter(post_ids).values())),
        "posts": int_array([place[post_id] for post_id in post_ids]),
        "user_ids": id_array(user_ids),
        "operations": len(post_ids),
    }


def _unknown_in(slot_of: Mapping[str, int], known: Sequence[int | None]) -> set[int]:
    return {slot for slot, number in zip(slot_of.values(), known, strict=True) if number is None}


async def inserted_likes(inserting: Inserting) -> InsertedLikes:
    """What a statement that inserts likes did. Raises FenceLost when that was nothing: this process may not write."""
    rows = await inserting.cursor.fetchall()
    if not rows:
        raise FenceLost
    (*_, positions), *changed = rows
    posts: dict[str, PostCount] = {}
    numbers: dict[str, int] = {}
    for packed, version, like_count, number, _ in changed:
        post_id = inserting.posts[packed]
        posts[post_id] = PostCount(version, like_count)
        if number is not None:
            numbers[post_id] = number
    return InsertedLikes(
        posts, numbers, None if positions is None else {position - 1 for position in positions}
    )


async def read_edges(
    connection: Connection,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    numbers: PostNumbers,
) -> Cursor:
    """Reads edges; one that is asked for twice is answered twice. ``edges_read`` reads the result."""
    return await _execute_for_edges(connection, "read_edges", post_ids, user_ids, slots, numbers)


async def edges_read(cursor: Cursor, of: Sequence[T], slots: Sequence[int]) -> list[tuple[T, EdgeState]]:
    """The edges that a ``read_edges`` found, each with what stands for it in ``of``. ``slots``: as it had them."""
    return [
        (of[position - 1], state_of(slots[position - 1], EdgeRow(*row)))
        for position, *row in await cursor.fetchall()
    ]


async def write_edges(
    connection: Connection,
    edges: Mapping[EdgeKey, EdgeState],
    changes: Mapping[str, PostChange],
    numbers: PostNumbers,
) -> Cursor:
    """Writes the edges as they are given, and applies the changes of their posts. ``edges_written`` reads the result.

    ``numbers`` lacks none of the slots, or there is a row of each post.
    """
    place = {post_id: place for place, post_id in enumerate(changes, 1)}
    slots = [change.slot for change in changes.values()]
    rows = [row_of(state) for state in edges.values()]
    return await execute(
        connection,
        "write_edges",
        {
            "post_ids": id_array(list(changes)),
            "slots": int_array(slots),
            "next_numbers": int_array(numbers.next(slots)),
            "changes": int_array([change.changes for change in changes.values()]),
            "deltas": int_array([change.delta for change in changes.values()]),
            "posts": int_array([place[post_id] for post_id, _ in edges]),
            "revs": int_array([row.rev for row in rows]),
            "intents": nullable_int_array([row.intent for row in rows]),
            "first_revs": nullable_int_array([row.first_rev for row in rows]),
            "liked_at": nullable_int_array([row.liked_at for row in rows]),
            "liked": bool_array([row.liked for row in rows]),
            "user_ids": id_array([user_id for _, user_id in edges]),
        },
    )


async def edges_written(cursor: Cursor) -> tuple[dict[str, PostCount], dict[str, int]]:
    """The posts of a ``write_edges`` as they are now, and their numbers."""
    rows = [(unpack(packed), *row) for packed, *row in await cursor.fetchall()]
    return (
        {post_id: PostCount(version, count) for post_id, version, count, _ in rows},
        {post_id: number for post_id, _, _, number in rows},
    )


async def read_liked(
    connection: Connection,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    numbers: PostNumbers,
) -> dict[int, int]:
    """Position (from 0) → since when, in µs since 1970, of the edges that are liked.

    ``numbers`` remembers the posts that were looked up, unless it has forgotten something meanwhile.
    """
    era = numbers.era
    cursor = await _execute_for_edges(connection, "read_liked", post_ids, user_ids, slots, numbers)
    liked: dict[int, int] = {}
    found: dict[int, int] = {}
    for position, value in await cursor.fetchall():
        if position > 0:
            liked[position - 1] = value
        else:
            found[-position - 1] = value
    if found and numbers.era == era:
        slot_of = dict(zip(post_ids, slots, strict=True))
        posts = list(slot_of)
        numbers.remember({posts[place]: number for place, number in found.items()}, slot_of)
    return liked


async def _execute_for_edges(
    connection: Connection,
    name: str,
    post_ids: Sequence[str],
    user_ids: Sequence[str],
    slots: Sequence[int],
    numbers: PostNumbers,
) -> Cursor:
    """Executes a statement that looks for edges."""
    slot_of = dict(zip(post_ids, slots, strict=True))
    known = numbers.known(slot_of)
    parameters: dict[str, object] = {"user_ids": id_array(user_ids), "edge_slots": int_array(slots)}
    if None not in known:
        number_of = dict(zip(slot_of, known, strict=True))
        parameters["edge_numbers"] = nullable_int_array([number_of[post_id] for post_id in post_ids])
        return await execute_among(connection, name, parameters, set(slots))
    place = {post_id: place for place, post_id in enumerate(slot_of, 1)}
    parameters |= {
        "post_ids": id_array(list(slot_of)),
        "slots": int_array(list(slot_of.values())),
        "numbers": nullable_int_array(known),
        "posts": int_array([place[post_id] for post_id in post_ids]),
    }
    return await execute_among(
        connection, f"{name}_of_unknown_posts", parameters, set(slots), _unknown_in(slot_of, known)
    )
