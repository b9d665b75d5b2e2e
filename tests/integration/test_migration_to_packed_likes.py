"""Migration 0012: what was stored with ids as text is the same afterwards, by number and packed."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likering.dev.postgres import PostgresServer
from likering.postgres.migrations import migrate
from shard_node import store
from shard_node.commit import Batch, commit
from shard_node.database import SCHEMA, conninfo
from shard_node.packed_ids import pack
from shard_node.partitions import PARENTS
from shard_node.post_numbers import PostNumbers
from shard_node.purge_keys import mark_key, post_place_key, user_mark_key, user_place_key
from shard_node.purge_marks import load_marks
from shard_node.store import Connection, Fence
from tests.integration.node_database import MIGRATIONS, migrations_before, unit
from tests.parts.stored import EDGES, POSTS

MIGRATION = MIGRATIONS.joinpath("0012_packed_likes.sql").read_text("utf-8")
BEFORE = "\U0010ffff" * 33
"""What was behind all ids."""
SLOTS = (3, 5)
_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=32)
_NUMBERS = st.integers(0, 2**70).map(str)
_IDS = st.one_of(_TEXTS, _NUMBERS, _NUMBERS.map(lambda digits: f"0{digits}"), st.uuids().map(str))


@pytest.fixture(scope="module")
def packing(postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """A connection that has the functions of the migration."""
    with psycopg.connect(postgres_server.dsn, options="-csearch_path=pg_temp") as connection:
        for function in re.findall(r"^CREATE FUNCTION .*?^\$\$;", MIGRATION, re.MULTILINE | re.DOTALL):
            in_session = re.sub(r"(?<![\w.])(packed|packed_key)\(", r"pg_temp.\1(", function)
            connection.execute(in_session.encode())
        yield connection


@settings(max_examples=500)
@given(st.lists(_IDS, min_size=1, max_size=20))
def test_ids_are_packed_as_the_node_does_it(packing: psycopg.Connection, ids: list[str]) -> None:
    edges = [str(number) for power in (8, 56, 63, 64) for number in (2**power - 1, 2**power)]
    query = "SELECT pg_temp.packed(id) FROM unnest(%s::text[]) WITH ORDINALITY AS one (id, n) ORDER BY n"
    every = [*ids, *edges]
    assert [row[0] for row in packing.execute(query, [every], binary=True)] == [pack(one) for one in every]


@given(_IDS, st.integers(0, 2**63 - 1))
def test_keys_of_purges_are_packed_as_the_node_does_it(
    packing: psycopg.Connection, name: str, rev: int
) -> None:
    before = [
        BEFORE + name,
        BEFORE * 2 + name,
        f"{BEFORE * 3}{rev:019}p{name}",
        f"{BEFORE * 3}{rev:019}u{name}",
    ]
    query = (
        "SELECT pg_temp.packed_key(key) FROM unnest(%s::text[]) WITH ORDINALITY AS one (key, n) ORDER BY n"
    )
    assert [row[0] for row in packing.execute(query, [before], binary=True)] == [
        mark_key(name),
        user_mark_key(name),
        post_place_key(rev, name),
        user_place_key(rev, name),
    ]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        conninfo(database, "test"), autocommit=True
    ) as connection:
        yield connection


async def migrated_before(connection: Connection, directory: Path) -> None:
    """To the version before, with two slots."""
    await migrate(connection, migrations_before("0012", directory), schema=SCHEMA)
    for slot in SLOTS:
        await connection.execute("INSERT INTO slots (slot, epoch, state) VALUES (%s, 1, 'owner')", [slot])
        for parent in PARENTS:
            await connection.execute(
                f"CREATE TABLE {parent}_s{slot} PARTITION OF {parent} FOR VALUES IN ({slot})".encode()
            )


IDS = ["p", "7123456789012345678", str(2**64 - 1), "0123", str(uuid.UUID(int=2**127)), '"{\\', "é🙂"]
OLD_EDGES = [
    # rev, intent, first_rev, liked, liked_at
    (100, 100, 100, True, None),  # a like
    (101, 90, 101, True, None),  # with an intent
    (102, 30, 102, True, 30),  # an import
    (103, 110, 103, True, 30),  # an import, and a newer intent
    (104, 104, 50, True, None),  # liked again
    (105, 105, 51, False, None),  # a tombstone
    (106, 99, 52, False, None),  # with an intent
    (107, 80, None, False, None),  # an unlike of what was never liked
    (108, 108, None, False, None),
]


async def test_everything_is_as_it_was(connection: Connection, tmp_path: Path) -> None:
    """Each state of an edge, posts, one that has lost its row, and what is known of purges."""
    await migrated_before(connection, tmp_path)
    edges: set[tuple[object, ...]] = set()
    posts: set[tuple[object, ...]] = set()
    for slot in SLOTS:
        for post in IDS:
            for n, (rev, intent, first_rev, liked, liked_at) in enumerate(OLD_EDGES):
                edges.add((slot, rev, intent, first_rev, liked, liked_at, post, IDS[n % len(IDS)] + str(n)))
            posts.add((slot, post, 9, 5))
        edges.add((slot, 1, 1, 1, True, None, "lost", "u"))
    await connection.cursor().executemany(
        "INSERT INTO edges (slot, rev, intent, first_rev, liked, liked_at, post_id, user_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        list(edges),
    )
    await connection.cursor().executemany(
        "INSERT INTO posts (slot, post_id, version, like_count) VALUES (%s, %s, %s, %s)", list(posts)
    )
    for key, began, erased, purged in (
        (BEFORE + "p", 7, None, None),
        (BEFORE * 2 + "u", 8, 3, None),
        (f"{BEFORE * 3}{9:019}pq", None, None, 9),
        (f"{BEFORE * 3}{10:019}uv", None, None, 10),
    ):
        await connection.execute(
            "INSERT INTO posts (slot, post_id, version, like_count, purge_began, purge_erased, purged_rev)"
            " VALUES (3, %s, 0, 0, %s, %s, %s)",
            [key, began, erased, purged],
        )
    await connection.execute("UPDATE posts SET erased_rev = 77 WHERE post_id = 'p'")

    await migrate(connection, MIGRATIONS, schema=SCHEMA)

    cursor = await connection.execute(
        f"SELECT slot, rev, intent, first_rev, liked, liked_at, post_id, user_id FROM {EDGES}".encode()
    )
    # Of the largest number the tests' SQL knows only the lower half's sign.
    signed = {str(2**64 - 1): "-1"}
    assert set(await cursor.fetchall()) == {
        (*rest, signed.get(str(post), post), user) for *rest, post, user in edges
    }
    cursor = await connection.execute(f"SELECT slot, post_id, version, like_count FROM {POSTS}".encode())
    assert set(await cursor.fetchall()) == {
        *((slot, signed.get(str(post), post), *rest) for slot, post, *rest in posts),
        *((slot, "lost", 0, 0) for slot in SLOTS),
    }
    cursor = await connection.execute(
        "SELECT slot, count(post_no), min(post_no), max(post_no), count(DISTINCT post_no) FROM posts GROUP BY 1"
    )
    assert set(await cursor.fetchall()) == {(slot, 8, 1, 8, 8) for slot in SLOTS}
    marks = await load_marks(connection, SLOTS)
    assert [(name, mark.began) for name, mark in (*marks.posts, *marks.users)] == [("p", 7), ("u", 8)]
    cursor = await connection.execute(
        "SELECT post_id, purge_erased, purged_rev FROM posts"
        " WHERE purged_rev IS NOT NULL OR purge_erased > 0 ORDER BY 1",
        binary=True,
    )
    assert await cursor.fetchall() == [
        (user_mark_key("u"), 3, None),
        (post_place_key(9, "q"), None, 9),
        (user_place_key(10, "v"), None, 10),
    ]
    cursor = await connection.execute("SELECT count(*) FROM posts WHERE erased_rev = 77")
    assert await cursor.fetchone() == (2,)


async def test_the_node_goes_on_with_what_was_there(connection: Connection, tmp_path: Path) -> None:
    """The tables are as those of a new node, so a like of before exists, and a new post gets a new number."""
    await migrated_before(connection, tmp_path)
    await connection.execute(
        "INSERT INTO edges (slot, rev, intent, first_rev, liked, post_id, user_id) VALUES (3, 5, 5, 5, true, 'p', 'u')"
    )
    await connection.execute("INSERT INTO posts (slot, post_id, version, like_count) VALUES (3, 'p', 1, 1)")
    await migrate(connection, MIGRATIONS, schema=SCHEMA)
    await store.execute(connection, "raise_generation")
    likes = unit([(True, "p", "u", 0), (True, "p", "v", 0), (True, "q", "u", 0)])
    likes.slots = [3, 3, 3]
    batch = Batch(1000)
    batch.add(likes, {})
    await commit(connection, Fence(1, 0), batch, PostNumbers())
    cursor = await connection.execute(f"SELECT post_id, post_no, version, like_count FROM {POSTS}".encode())
    (old_no, *old), (new_no, *new) = [row[1:] for row in sorted(await cursor.fetchall())]
    assert (old_no, old, new) == (1, [2, 2], [1, 1])
    assert new_no > 1
    cursor = await connection.execute(
        "SELECT relname, reloptions FROM pg_class WHERE relname LIKE '%\\_s3' ORDER BY 1"
    )
    assert await cursor.fetchall() == [
        ("edges_s3", None),
        ("posts_s3", ["fillfactor=80"]),
        ("user_likes_s3", None),
    ]
    cursor = await connection.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'likering'::regnamespace AND relname ~ 'old|packed'"
    )
    assert await cursor.fetchone() == (0,)
