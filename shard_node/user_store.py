"""The user side in Postgres: what users like, the changes of posts that are told, and how far they have been told.

As in ``store``, nothing here decides anything.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from shard_node.arrays import bytes_array, int_array, text_array
from shard_node.packed_ids import pack, unpack
from shard_node.store import (
    MOST_CHANGES,
    Connection,
    Fence,
    SlotMoment,
    check_fence,
    execute,
    execute_for_slots,
)
from shard_node.user_chunks import BEHIND_ALL, Entry, count, decode, place, searches

LIKES_OF_A_CHUNK: Final = 50
"""About; more where posts have short ids."""
_MOST_CHUNKS: Final = 64
"""Of one statement: some milliseconds of decoding."""


class UserLike(NamedTuple):
    """An edge as its post's owner tells it. ``slot``: of the user. ``first``: see ``ToldEdge``."""

    user_id: str
    slot: int
    entry: Entry
    first: bool


class UserChunks(NamedTuple):
    """Chunks of a user (since → entries), see ``user_chunks``."""

    user_id: str
    slot: int
    chunks: Mapping[bytes, bytes]


class UserChange(NamedTuple):
    """An edge at its last change. ``was_liked``: at some time, so that the user's side may know it."""

    slot: int
    rev: int
    liked: bool
    was_liked: bool
    post_id: str
    user_id: str
    like_time: int
    """Since when it is so, in µs since 1970."""
    first: bool
    """See ``ToldEdge``."""


class ToldEdge(NamedTuple):
    """What the owner of a post tells the owner of a user."""

    user_id: str
    post_id: str
    rev: int
    liked: bool
    like_time: int
    first: bool = False
    """It is the edge's first like, which nothing has changed since: what else is known of it is newer, or an unlike."""


class Marks(NamedTuple):
    """How far a slot's changes have been told: by node, under the routes of this digest."""

    routes: int
    by_node: Mapping[str, int]


async def read_chunks(connection: Connection, likes: Sequence[UserLike]) -> dict[str, dict[bytes, bytes]]:
    """By user, the chunks (since → entries) that ``user_chunks.fold`` needs for these edges."""
    told: dict[tuple[str, int], list[tuple[Entry, bool]]] = {}
    for like in likes:
        told.setdefault((like.user_id, like.slot), []).append((like.entry, like.first))
    users = {user_id: pack(user_id) for user_id, _ in told}
    wanted = [
        (users[user_id], slot, one) for (user_id, slot), edges in told.items() for one in searches(edges)
    ]
    cursor = await execute_for_slots(
        connection,
        "read_user_chunks",
        {
            "user_ids": bytes_array([user for user, _, _ in wanted]),
            "places": bytes_array([one.place for _, _, one in wanted]),
            "keys": bytes_array([one.key for _, _, one in wanted]),
            "behind": bytes_array([one.behind for _, _, one in wanted]),
        },
        [slot for _, slot, _ in wanted],
    )
    found: dict[bytes, dict[bytes, bytes]] = {user: {} for user in users.values()}
    for user, since, entries in await cursor.fetchall():
        found[user][since] = entries
    return {user_id: found[user] for user_id, user in users.items()}


async def write_chunks(connection: Connection, fence: Fence, users: Sequence[UserChunks]) -> None:
    """Writes these chunks, and deletes those that are empty, behind the fence; a transaction of its own.

    Raises FenceLost, also when there is nothing to write.
    """
    rows = [
        (user.slot, pack(user.user_id), since, entries)
        for user in users
        for since, entries in user.chunks.items()
    ]
    full = [row for row in rows if row[3]]
    parameters = {
        "generation": fence.generation,
        "slots_seq": fence.slots_seq,
        "slots": int_array([slot for slot, _, _, _ in full]),
        "user_ids": bytes_array([user for _, user, _, _ in full]),
        "sinces": bytes_array([since for _, _, since, _ in full]),
        "chunks": bytes_array([entries for _, _, _, entries in full]),
    }
    if len(full) == len(rows):
        await check_fence(await execute(connection, "write_user_chunks", parameters))
        return
    async with connection.transaction():
        await check_fence(await execute(connection, "write_user_chunks", parameters))
        for slot, user, since, entries in rows:
            if not entries:
                gone = {"slot": slot, "user_id": user, "since": since}
                await execute(connection, "delete_user_chunk", gone)


async def list_liked_posts(
    connection: Connection, slot: int, user_id: str, before: int, below: str, limit: int
) -> list[tuple[str, int]]:
    """Posts that the user likes, and since when, newest first: since before ``before``, or since then and ids below
    ``below``."""
    found: list[tuple[str, int]] = []
    behind = place(before, below)
    size = min(limit // LIKES_OF_A_CHUNK + 2, _MOST_CHUNKS)
    async with aclosing(_chunks_before(connection, slot, user_id, behind, size)) as chunks:
        async for chunk in chunks:
            found += [
                (entry.post_id, entry.like_time)
                for entry in decode(chunk)
                if entry.liked and entry.order < (before, below)
            ]
            if len(found) >= limit:
                break
    return found[:limit]


async def count_told(connection: Connection, slot: int, user_id: str) -> int:
    """How many edges of a user are known, likes and remembered unlikes."""
    chunks = _chunks_before(connection, slot, user_id, BEHIND_ALL, _MOST_CHUNKS)
    return sum([count(chunk) async for chunk in chunks])


async def erase_chunks(connection: Connection, slot: int, user_id: str, limit: int) -> int:
    """Deletes so many chunks of a user at most, and says how many edges there were in these.

    A part of a transaction that has passed the fence.
    """
    parameters = {"slot": slot, "user_id": pack(user_id), "limit": limit}
    cursor = await execute(connection, "erase_user_chunks", parameters)
    return sum([count(entries) for (entries,) in await cursor.fetchall()])


async def _chunks_before(
    connection: Connection, slot: int, user_id: str, behind: bytes, size: int
) -> AsyncGenerator[bytes]:
    """The user's chunks that begin before a place, newest first; ``size``: how many to ask for at first."""
    user = pack(user_id)
    while True:
        cursor = await execute(
            connection, "list_user_chunks", {"slot": slot, "user_id": user, "before": behind, "limit": size}
        )
        chunks = await cursor.fetchall()
        for _, entries in chunks:
            yield entries
        if len(chunks) < size:
            return
        behind, size = chunks[-1][0], _MOST_CHUNKS


async def read_changes(
    connection: Connection, positions: Mapping[int, int], limit: int
) -> tuple[dict[int, SlotMoment], dict[int, list[UserChange]]]:
    """The slots (slot → revision) that are held here, and what has changed in each after its revision, lowest first.

    All of one moment; at most ``limit`` edges of each slot.
    """
    cursor = await execute_for_slots(
        connection,
        "read_user_changes",
        {"positions": int_array(list(positions.values())), "limit": min(limit, MOST_CHANGES)},
        list(positions),
    )
    moments: dict[int, SlotMoment] = {}
    changes: dict[int, list[UserChange]] = {slot: [] for slot in positions}
    for slot, rev, epoch, liked, was_liked, post_id, user_id, like_time, first in await cursor.fetchall():
        if post_id is None:
            moments[slot] = SlotMoment(epoch, liked, rev)
        else:
            changes[slot].append(
                UserChange(slot, rev, liked, was_liked, unpack(post_id), unpack(user_id), like_time, first)
            )
    for found in changes.values():
        found.sort(key=lambda change: change.rev)
    return moments, changes


async def read_marks(connection: Connection, slots: list[int]) -> dict[int, Marks]:
    """The marks of those slots that have any."""
    cursor = await execute(connection, "read_user_feeds", {"slots": int_array(slots)})
    return {slot: Marks(routes, marks) for slot, routes, marks in await cursor.fetchall()}


async def write_marks(
    connection: Connection, fence: Fence, routes: int, marks: Mapping[int, Mapping[str, int]]
) -> None:
    """Notes the marks of these slots, behind the fence; a transaction of its own. Raises FenceLost."""
    cursor = await execute(
        connection,
        "write_user_feeds",
        {
            "generation": fence.generation,
            "slots_seq": fence.slots_seq,
            "routes": routes,
            "slots": int_array(list(marks)),
            "marks": text_array([json.dumps(by_node) for by_node in marks.values()]),
        },
    )
    await check_fence(cursor)


async def take_marks(connection: Connection, slot: int, marks: Marks | None) -> None:
    """Part of the transaction that takes the slot: its marks are those that came with it, or none."""
    if marks is None:
        await execute(connection, "forget_user_feed", {"slot": slot})
    else:
        parameters = {"slot": slot, "routes": marks.routes, "marks": json.dumps(dict(marks.by_node))}
        await execute(connection, "set_user_feed", parameters)
