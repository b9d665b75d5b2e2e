"""What the users' side has in the nodes' databases, and whether it has become what the posts' side is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import psycopg

from shard_node.packed_ids import pack, unpack
from shard_node.user_chunks import Entry, decode, fold
from tests.parts.stored import EDGES

_MOST = 10
CHUNKS: Final = "SELECT user_id, entries FROM user_likes"
"""What ``told`` is to be given the rows of; a condition may be added."""


class Told(NamedTuple):
    """An edge as the users' side has it."""

    user_id: str
    post_id: str
    rev: int
    liked: bool
    like_time: int


def told(chunks: Iterable[tuple[bytes, bytes]]) -> list[Told]:
    """All edges of these chunks (user and entries), in order; one twice if there are two entries of it."""
    return sorted(Told(unpack(user), *entry) for user, entries in chunks for entry in decode(entries))


async def write_told(
    connection: psycopg.AsyncConnection[Any], slot: int, likes: Mapping[str, Iterable[Entry]]
) -> None:
    """Makes these the edges of the slot's users that are known, and of these users all that are."""
    for user_id, entries in likes.items():
        await connection.execute("DELETE FROM user_likes WHERE user_id = %s", [pack(user_id)])
        for since, chunk in fold({}, entries, 0).items():
            await connection.execute(
                "INSERT INTO user_likes (slot, user_id, since, entries) VALUES (%s, %s, %s, %s)",
                [slot, pack(user_id), since, chunk],
            )


async def differences(dsns: Iterable[str]) -> list[str]:
    """Likes that only one side of the nodes' databases has, or that the users' side has of another time or twice."""
    edges: set[tuple[str, str, int]] = set()
    found: list[tuple[str, str, int]] = []
    for dsn in dsns:
        async with await psycopg.AsyncConnection.connect(dsn, options="-csearch_path=likering") as connection:
            cursor = await connection.execute(f"SELECT user_id, post_id, rev FROM {EDGES} WHERE liked")
            edges.update(await cursor.fetchall())
            chunks = await (await connection.execute(CHUNKS)).fetchall()
            found += [like[:3] for like in told(chunks) if like.liked]
    likes = set(found)
    return [
        *(f"{edge} has not been told" for edge in sorted(edges - likes)[:_MOST]),
        *(f"{edge} is on the users' side only" for edge in sorted(likes - edges)[:_MOST]),
        *([f"{len(found) - len(likes)} likes are there twice"] if len(found) > len(likes) else []),
    ]
