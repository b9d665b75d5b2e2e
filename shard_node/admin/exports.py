"""Likes of a slot, page by page, in the order of their index: no snapshot is held, and a page costs what it has.

A like that does not change keeps its place, also when its slot moves, so whoever goes on behind the last place of the
page before sees each such like exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shard_node.admin.slot_reads import SlotReads
from shard_node.packed_ids import unpack
from shard_node.store import Connection, execute

MAX_PAGE: Final = 10_000


class SlotPlace(NamedTuple):
    """Of a like in its slot: its post's number, since when in µs since 1970, and its revision."""

    post_no: int
    like_time: int
    rev: int


class Exported(NamedTuple):
    """A like, since when in µs since 1970, and its place."""

    post_id: str
    user_id: str
    like_time: int
    place: SlotPlace


async def export(
    reads: SlotReads, slot: int, epoch: int, after: SlotPlace, limit: int
) -> tuple[Sequence[Exported], SlotPlace | None]:
    """Up to ``limit`` likes behind a place, and the place to go on behind; None: that was all. Raises SlotRefused."""
    likes = await reads.read(slot, epoch, lambda connection: _page(connection, slot, after, limit))
    if len(likes) < limit:
        return likes, None
    return likes, likes[-1].place


async def _page(connection: Connection, slot: int, after: SlotPlace, limit: int) -> list[Exported]:
    cursor = await execute(
        connection,
        "export_likes",
        {
            "slot": slot,
            "after_post_no": after.post_no,
            "after_time": after.like_time,
            "after_rev": after.rev,
            "limit": limit,
        },
    )
    rows = await cursor.fetchall()
    posts = {post_no: unpack(packed) for post_no, packed, _, rev in rows if rev is None}
    return [
        Exported(posts[post_no], unpack(packed), like_time, SlotPlace(post_no, like_time, rev))
        for post_no, packed, like_time, rev in rows
        if rev is not None
    ]
