"""Whether the users' side has become what the posts' side is."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from tests.parts.stored import EDGES

_MOST = 10


async def differences(dsns: Iterable[str]) -> list[str]:
    """Likes that only one side of the nodes' databases has, or that the users' side has of another time or twice."""
    edges: set[tuple[str, str, int]] = set()
    told: set[tuple[str, str, int]] = set()
    rows = 0
    for dsn in dsns:
        async with await psycopg.AsyncConnection.connect(dsn, options="-csearch_path=likering") as connection:
            cursor = await connection.execute(f"SELECT user_id, post_id, rev FROM {EDGES} WHERE liked")
            edges.update(await cursor.fetchall())
            cursor = await connection.execute("SELECT user_id, post_id, rev FROM user_likes WHERE liked")
            found = await cursor.fetchall()
            rows += len(found)
            told.update(found)
    return [
        *(f"{edge} has not been told" for edge in sorted(edges - told)[:_MOST]),
        *(f"{edge} is on the users' side only" for edge in sorted(told - edges)[:_MOST]),
        *([f"{rows - len(told)} likes are on two nodes"] if rows > len(told) else []),
    ]
