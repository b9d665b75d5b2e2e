"""Likes of a slot, page by page, in the order of their index: no snapshot is held, and a page costs what it has.

A like that does not change keeps its place, also when its slot moves, so whoever goes on behind the last place of the
page before sees each such like exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shard_node.admin.slot_reads import SlotReads
from shard_node.store import Connection, execute

MAX_PAGE: Final = 10_000


class SlotPlace(NamedTuple):
    """Of a like in its slot: its post, since when in µs since 1970, and its revision."""

    post_id: str
    like_time: int
    rev: int


class Exported(NamedTuple):
    """A like: post, user, since when in µs since 1970, and revision."""

    post_id: str
    user_id: str
    like_time: int
    rev: int


async def export(
    reads: SlotReads, slot: int, epoch: int, after: SlotPlace, limit: int
) -> tuple[Sequence[Exported], SlotPlace | None]:
    """Up to ``limit`` likes behind a place, and the place to go on behind; None: that was all. Raises SlotRefused."""
    likes = await reads.read(slot, epoch, lambda connection: _page(connection, slot, after, limit))
    if len(likes) < limit:
        return likes, None
    last = likes[-1]
    return likes, SlotPlace(last.post_id, last.like_time, last.rev)


async def _page(connection: Connection, slot: int, after: SlotPlace, limit: int) -> list[Exported]:
    cursor = await execute(
        connection,
        "export_likes",
        {
            "slot": slot,
            "after_post_id": after.post_id,
            "after_time": after.like_time,
            "after_rev": after.rev,
            "limit": limit,
        },
    )
    return [Exported(*row) for row in await cursor.fetchall()]
