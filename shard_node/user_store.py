"""The user side in Postgres: what users like, the changes of posts that are told, and how far they have been told.

As in ``store``, nothing here decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from shard_node.arrays import bool_array, int_array, text_array
from shard_node.packed_ids import unpack
from shard_node.store import (
    MOST_CHANGES,
    Connection,
    Fence,
    SlotMoment,
    check_fence,
    execute,
    execute_for_slots,
)


class UserLike(NamedTuple):
    """An edge as its post's owner tells it. ``slot``: of the user."""

    user_id: str
    post_id: str
    slot: int
    rev: int
    liked: bool
    like_time: int


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


class ToldEdge(NamedTuple):
    """What the owner of a post tells the owner of a user."""

    user_id: str
    post_id: str
    rev: int
    liked: bool
    like_time: int


class Marks(NamedTuple):
    """How far a slot's changes have been told: by node, under the routes of this digest."""

    routes: int
    by_node: Mapping[str, int]


async def apply(connection: Connection, fence: Fence, likes: Mapping[tuple[str, str], UserLike]) -> None:
    """Writes what is newer than what is known, behind the fence; a transaction of its own. Raises FenceLost."""
    rows = list(likes.values())
    cursor = await execute(
        connection,
        "apply_user_likes",
        {
            "generation": fence.generation,
            "slots_seq": fence.slots_seq,
            "revs": int_array([row.rev for row in rows]),
            "slots": int_array([row.slot for row in rows]),
            "liked": bool_array([row.liked for row in rows]),
            "user_ids": text_array([row.user_id for row in rows]),
            "post_ids": text_array([row.post_id for row in rows]),
            "like_times": int_array([row.like_time for row in rows]),
        },
    )
    await check_fence(cursor)


async def list_liked_posts(
    connection: Connection, slot: int, user_id: str, before: int, below: str, limit: int
) -> list[tuple[str, int]]:
    """Posts that the user likes, and since when, newest first: since before ``before``, or since then and ids below
    ``below``."""
    cursor = await execute(
        connection,
        "list_liked_posts",
        {"slot": slot, "user_id": user_id, "before": before, "below": below, "limit": limit},
    )
    return await cursor.fetchall()


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
    for slot, rev, epoch, liked, was_liked, post_id, user_id, like_time in await cursor.fetchall():
        if post_id is None:
            moments[slot] = SlotMoment(epoch, liked, rev)
        else:
            changes[slot].append(
                UserChange(slot, rev, liked, was_liked, unpack(post_id), unpack(user_id), like_time)
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
