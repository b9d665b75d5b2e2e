"""Compares what users like on the target of a move with the copy that the source keeps.

The revisions of likes are of other nodes' clocks, so none tells what has changed since: each may only have grown. Most
users have been told nothing new. So chunks are compared whole, by their hashes, and only of those users of whom one
differs are the likes looked at. Who has been purged since is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from psycopg.sql import SQL, Identifier

from likering.topology.move_names import kept, partition
from shard_node.arrays import bytes_array
from shard_node.packed_ids import unpack
from shard_node.purge_keys import user_mark_key
from shard_node.store import Connection
from shard_node.user_chunks import BEHIND_ALL, UNLIKES_KEPT, Entry, decode

_PIECE: Final = 1000
"""Chunks of one question to the target."""
_AT_ONCE: Final = 16
"""Chunks that are decoded without a pause: about a millisecond."""

Likes = Mapping[str, Entry]
"""What a user likes, or has unliked: by post, the newest entry."""


async def user_likes_problem(
    source: Connection, target: Connection, slot: int, move: int, last_rev: int
) -> str:
    """Empty when all that the source keeps is on the target, or something newer of the same edge."""
    there = kept("user_likes", slot, move)
    cursor = await source.execute("SELECT to_regclass(%s::text)", [there])
    if await cursor.fetchone() == (None,):
        return ""  # of a version that had another users' side, or none
    page = SQL(
        "SELECT user_id, since, sha256(entries) FROM {} WHERE (user_id, since) > (%s, %s)"
        " ORDER BY user_id, since LIMIT %s"
    ).format(Identifier(there))
    oldest = time.time_ns() // 1000 - UNLIKES_KEPT
    last = (b"", b"")
    while True:
        cursor = await source.execute(page, [*last, _PIECE], binary=True)
        chunks = await cursor.fetchall()
        if not chunks:
            return ""
        differing = await _differing(target, slot, chunks)
        expected = await _likes_there(source, there, differing)
        found = await _likes_here(target, slot, differing, last_rev)
        wrong = sum(_lost(expected.get(user, {}), likes, oldest) for user, likes in found.items())
        if wrong:
            return f"{wrong} likes of the slot's users are older on the target, or missing"
        user, since, _ = chunks[-1]
        # Of a user who has been compared, no more chunks need to be.
        last = (user, BEHIND_ALL) if user in differing else (user, since)


async def _differing(
    target: Connection, slot: int, chunks: Sequence[tuple[bytes, bytes, bytes]]
) -> list[bytes]:
    """The users of those chunks that are not the same on the target."""
    cursor = await target.execute(
        SQL(
            "SELECT DISTINCT kept.user_id"
            " FROM unnest(%s::bytea[], %s::bytea[], %s::bytea[]) AS kept (user_id, since, hash)"
            " LEFT JOIN LATERAL ("
            "  SELECT sha256(entries) AS hash FROM {} AS here"
            "  WHERE here.user_id = kept.user_id AND here.since = kept.since OFFSET 0"
            " ) AS here ON true WHERE here.hash IS DISTINCT FROM kept.hash"
        ).format(Identifier(partition("user_likes", slot))),
        [bytes_array(column) for column in zip(*chunks, strict=True)],
        binary=True,
    )
    return [user for (user,) in await cursor.fetchall()]


async def _likes_there(source: Connection, table: str, users: Sequence[bytes]) -> Mapping[bytes, Likes]:
    cursor = await source.execute(
        SQL("SELECT user_id, entries FROM {} WHERE user_id = ANY(%s::bytea[])").format(Identifier(table)),
        [bytes_array(users)],
        binary=True,
    )
    return await _newest(await cursor.fetchall())


async def _likes_here(
    target: Connection, slot: int, users: Sequence[bytes], last_rev: int
) -> Mapping[bytes, Likes]:
    """Of all of the users but those who have been purged since, or are."""
    cursor = await target.execute(
        SQL(
            "SELECT wanted.user_id, coalesce(chunk.entries, '')"
            " FROM unnest(%s::bytea[], %s::bytea[]) AS wanted (user_id, mark)"
            " LEFT JOIN LATERAL ("
            "  SELECT entries FROM {likes} AS here WHERE here.user_id = wanted.user_id OFFSET 0"
            " ) AS chunk ON true"
            # In the same statement: chunks go only while their user is marked.
            " WHERE NOT EXISTS (SELECT FROM {posts} AS mark WHERE mark.post_id = wanted.mark"
            "  AND (mark.purge_began IS NOT NULL OR mark.purged_rev > %s))"
        ).format(likes=Identifier(partition("user_likes", slot)), posts=Identifier(partition("posts", slot))),
        [bytes_array(users), bytes_array([user_mark_key(unpack(user)) for user in users]), last_rev],
        binary=True,
    )
    return await _newest(await cursor.fetchall())


async def _newest(chunks: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, Likes]:
    """What these chunks (user and entries) say, by user. Others get their turn meanwhile."""
    found: dict[bytes, dict[str, Entry]] = {}
    for number, (user, entries) in enumerate(chunks, 1):
        likes = found.setdefault(user, {})
        for entry in decode(entries):
            known = likes.get(entry.post_id)
            if known is None or known.rev < entry.rev:
                likes[entry.post_id] = entry
        if not number % _AT_ONCE:
            await asyncio.sleep(0)
    return found


def _lost(expected: Likes, found: Likes, oldest: int) -> int:
    """How many of the edges are older than expected, or missing. Old unlikes may have been dropped."""
    return sum(
        1
        for post_id, entry in expected.items()
        if (now := found.get(post_id)) != entry
        and (now is None or now.rev <= entry.rev)
        and (entry.liked or entry.rev >= oldest)
    )
