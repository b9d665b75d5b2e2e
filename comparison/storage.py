"""Bytes of disk per like, beside the plain table that a product would begin with.

That table has a row per like, with ids as text, found by its key, by post newest first, and by user newest first. It
counts nothing, knows no unlikes, tells nobody of changes, and all of it is on one server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from comparison.resize import Say, ring
from comparison.servers import create_database
from likering import AsyncLikes, Mutation
from shard_node.user_chunks import Entry, encode

_CALL: Final = 500
_IN_FLIGHT: Final = 8
_PATIENCE: Final = 600.0
_LOOK: Final = 1.0

_PLAIN: Final = """
CREATE TABLE likes (
    post_id text NOT NULL,
    user_id text NOT NULL,
    liked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (post_id, user_id)
);
CREATE INDEX newest ON likes (post_id, liked_at DESC);
CREATE INDEX by_user ON likes (user_id, liked_at DESC);
"""
_TOLD: Final = "SELECT coalesce(sum(length(entries)), 0) FROM user_likes"
_ENTRY: Final = len(encode(Entry(f"7{0:018}", rev=1, liked=True, like_time=1)))
"""Of these, which all have as many bytes: to look into them would hold up what is looked at."""
# A table's bytes and those of each of its indexes, the partitions of one together: by the index's columns, for each
# partition's index has a name of its own.
_SIZES: Final = """
SELECT coalesce(parent.relname, own.relname) AS table, NULL AS index, sum(pg_table_size(own.oid))::bigint
FROM pg_class own LEFT JOIN pg_inherits ON inhrelid = own.oid LEFT JOIN pg_class parent ON parent.oid = inhparent
WHERE own.relkind = 'r' AND own.relnamespace = ANY (current_schemas(false)::regnamespace[]) GROUP BY 1
UNION ALL
SELECT coalesce(parent.relname, own.relname), regexp_replace(pg_get_indexdef(indexrelid), '^.* USING btree ', ''),
       sum(pg_relation_size(indexrelid))::bigint
FROM pg_index JOIN pg_class own ON own.oid = indrelid
LEFT JOIN pg_inherits ON inhrelid = own.oid LEFT JOIN pg_class parent ON parent.oid = inhparent
WHERE own.relkind = 'r' AND own.relnamespace = ANY (current_schemas(false)::regnamespace[]) GROUP BY 1, 2
"""


async def stored(directory: Path, say: Say, *, likes: int, posts: int, users: int) -> dict[str, Any]:
    """Bytes of both, after the same likes in the same order."""
    async with ring(directory, say, nodes=1, slots=64) as one:
        (node,) = one.cluster.nodes.values()
        await _like(one.cluster.address, likes, posts, users)
        say(f"{likes:,} likes of {posts:,} posts by {users:,} users are stored")
        await asyncio.to_thread(_wait_for_users, node.postgres_dsn, likes)
        plain = create_database(node.postgres_dsn, "plain")
        await asyncio.to_thread(_fill, plain, likes, posts, users)
        ours, theirs = _sizes(node.postgres_dsn), _sizes(plain)
    whole = sum(theirs.values()) / likes
    of_posts = sum(size for (table, _), size in ours.items() if table in ("edges", "posts")) / likes
    of_users = sum(size for (table, _), size in ours.items() if table == "user_likes") / likes
    return {
        "likes": likes,
        "likes a user": round(likes / users, 1),
        "plain table, bytes per like": round(whole, 1),
        "posts' side, bytes per like": round(of_posts, 1),
        "users' side, bytes per like": round(of_users, 1),
        "posts' side ÷ plain": round(of_posts / whole, 2),
        "everything ÷ plain": round((of_posts + of_users) / whole, 2),
        "parts": {
            f"{table} {index or 'rows'}": round(size / likes, 1)
            for (table, index), size in sorted({**ours, **theirs}.items(), key=lambda part: -part[1])
            if size / likes >= 1
        },
    }


def _edges(likes: int, posts: int, users: int) -> Iterator[tuple[str, str]]:
    """Posts and users, scattered: 19 digits each, no edge twice, and of each user about as many."""
    # In each round every post is liked once: by users in a row, beginning elsewhere than in any other round.
    rounds = list(range(-(-likes // posts)))
    random.Random(1).shuffle(rounds)
    apart = max(users // len(rounds), 1)
    for n in range(likes):
        post = n * 104_729 % posts
        user = (post + rounds[n // posts] * apart) % users
        yield f"7{post:018}", f"1{user * 7_919_000_003 % 10**17:018}"


async def _like(address: str, likes: int, posts: int, users: int) -> None:
    edges = _edges(likes, posts, users)

    async with AsyncLikes(address, timeout=_PATIENCE) as client:

        async def some() -> None:
            while mutations := [
                Mutation.like(user, post) for _, (post, user) in zip(range(_CALL), edges, strict=False)
            ]:
                await client.mutate(mutations)

        await asyncio.gather(*(some() for _ in range(_IN_FLIGHT)))


def _wait_for_users(dsn: str, likes: int) -> None:
    """Until all has been told to the users' side."""
    until = time.monotonic() + _PATIENCE
    with psycopg.connect(dsn, options="-csearch_path=likering", autocommit=True) as connection:
        while (found := _one(connection, _TOLD) // _ENTRY) < likes:
            if time.monotonic() > until:
                raise RuntimeError(f"{found:,} of {likes:,} likes are on the users' side")
            time.sleep(_LOOK)
        if _one(connection, "SELECT count(*) FROM edges WHERE liked") != likes:
            raise RuntimeError("the posts' side does not hold the likes")


def _one(connection: psycopg.Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _fill(dsn: str, likes: int, posts: int, users: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_PLAIN)
        edges = _edges(likes, posts, users)
        while True:
            with connection.cursor().copy("COPY likes (post_id, user_id) FROM STDIN") as copy:
                written = 0
                for _, edge in zip(range(_CALL), edges, strict=False):
                    copy.write_row(edge)
                    written += 1
            if not written:
                return


def _sizes(dsn: str) -> dict[tuple[str, str | None], int]:
    """Bytes by table and index; None: of the rows."""
    with psycopg.connect(dsn, options="-csearch_path=likering,public", row_factory=tuple_row) as connection:
        return {(table, index): size for table, index, size in connection.execute(_SIZES)}
