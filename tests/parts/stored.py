"""What the tables of a node hold, as everybody else says it: ids as text, and nothing left out.

``POSTS`` and ``EDGES`` are for ``FROM``; the connection's search_path is the node's schema.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, LiteralString

import psycopg

from tests.parts.records import Stored


def _text(packed: LiteralString) -> LiteralString:
    """A packed id as text; of numbers, those that are a bigint."""
    return (
        f"CASE WHEN get_byte({packed}, 0) = 0 THEN convert_from(substr({packed}, 2), 'UTF8')"
        f" WHEN length({packed}) <= 8 THEN ('x' || lpad(encode({packed}, 'hex'), 16, '0'))::bit(64)::bigint::text"
        f" ELSE encode({packed}, 'hex')::uuid::text END"
    )


POSTS: Final[LiteralString] = (
    f"(SELECT slot, post_no, {_text('post_id')} AS post_id, version, like_count"
    " FROM posts WHERE post_no IS NOT NULL) AS posts"
)
"""Only those that are posts."""
EDGES: Final[LiteralString] = (
    "(SELECT edges.slot, edges.rev, coalesce(edges.intent, edges.liked_at, edges.rev) AS intent,"
    " coalesce(edges.first_rev, CASE WHEN edges.liked THEN edges.rev END) AS first_rev, edges.liked_at, edges.liked,"
    f" {_text('posts.post_id')} AS post_id, {_text('edges.user_id')} AS user_id"
    " FROM edges LEFT JOIN posts USING (slot, post_no)) AS edges"
)


async def stored_in(dsns: Sequence[str], posts: Collection[str]) -> Stored:
    """What the databases of the nodes hold about these posts."""
    stored = Stored()
    for dsn in dsns:
        async with await psycopg.AsyncConnection.connect(dsn, options="-csearch_path=likering") as connection:
            cursor = await connection.execute(
                f"SELECT post_id, user_id, liked, intent FROM {EDGES} WHERE post_id = ANY(%s)", [list(posts)]
            )
            for post_id, user_id, liked, intent in await cursor.fetchall():
                if (post_id, user_id) in stored.edges:
                    stored.twice.append(f"edge {(post_id, user_id)}")
                stored.edges[post_id, user_id] = (liked, intent)
            cursor = await connection.execute(
                f"SELECT post_id, version, like_count FROM {POSTS} WHERE post_id = ANY(%s)", [list(posts)]
            )
            for post_id, version, count in await cursor.fetchall():
                if post_id in stored.posts:
                    stored.twice.append(f"post {post_id}")
                stored.posts[post_id] = (version, count)
    return stored
