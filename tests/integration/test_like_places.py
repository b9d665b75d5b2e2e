"""Lists of likers in the order of like_place: whatever the times, and a page costs what it has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.dev.postgres import PostgresServer
from likering.postgres.migrations import migrate
from shard_node import store
from shard_node.admin import exports
from shard_node.admin.exports import SlotPlace
from shard_node.database import SCHEMA, conninfo
from shard_node.packed_ids import pack
from shard_node.partitions import create_partitions
from shard_node.queries import QUERIES
from shard_node.store import Connection, Place
from tests.integration.node_database import NOW, prepared

MIGRATIONS = files("shard_node").joinpath("schema")
SLOT = 3
POST = "p"
POST_NO = 7
NEWEST = Place(2**63 - 1, 2**63 - 1)

TIED = {
    Place(NOW, NOW): "here",
    Place(NOW, NOW + 1): "came then",
    Place(NOW, NOW + 2): "came later",
    Place(NOW, NOW - 9): "was ahead of the clock",
    Place(NOW + 3, NOW + 3): "here, later",
    Place(NOW - 1, NOW + 5): "of before",
    Place(1, NOW + 6): "of 1970",
    Place(-1, NOW + 7): "of 1969",
    Place(-1, NOW + 8): "of 1969, too",
    Place(-(2**62), NOW + 4): "of long ago",
}
OLDEST_FIRST = [
    "of long ago",
    "of 1969",
    "of 1969, too",
    "of 1970",
    "of before",
    "here",
    "was ahead of the clock",
    "came then",
    "came later",
    "here, later",
]


@pytest.fixture
async def node(database: str) -> AsyncIterator[Connection]:
    """A node's database with an empty post."""
    async with prepared(database) as connection:
        await add_post(connection)
        yield connection


async def add_post(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO posts (version, like_count, post_no, slot, post_id) VALUES (0, 0, %s, %s, %s)",
        [POST_NO, SLOT, pack(POST)],
    )


async def add_likes(connection: Connection, likes: Mapping[Place, str]) -> None:
    """Rows of likes (place → user) as ``edge_rows`` has them."""
    await connection.cursor().executemany(
        "INSERT INTO edges (rev, liked_at, post_no, slot, liked, user_id)"
        " VALUES (%(rev)s::bigint, nullif(%(time)s::bigint, %(rev)s), %(post_no)s, %(slot)s, true, %(user)s)",
        [
            {"rev": rev, "time": time, "post_no": POST_NO, "slot": SLOT, "user": pack(user)}
            for (time, rev), user in likes.items()
        ],
    )


async def listed(connection: Connection, size: int) -> list[str]:
    """All likers of the post, by pages of this size."""
    users: list[str] = []
    before = NEWEST
    while True:
        _, page = await store.list_likers(connection, SLOT, POST, before, size)
        if not page:
            return users
        users += [user for user, _ in page]
        before = page[-1][1]


async def exported(connection: Connection, size: int) -> list[str]:
    users: list[str] = []
    after = SlotPlace(0, 0, 0)
    while page := await exports._page(connection, SLOT, after, size):
        users += [like.user_id for like in page]
        after = page[-1].place
    return users


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_pages_have_each_like_once_in_the_order_of_places(node: Connection, size: int) -> None:
    """They may end between likes of one time, and times may be before 1970."""
    await add_likes(node, TIED)
    assert await listed(node, size) == OLDEST_FIRST[::-1]
    assert await exported(node, size) == OLDEST_FIRST


@pytest.fixture(scope="module")
def placing(postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """A connection that has the function of the migration."""
    migration = MIGRATIONS.joinpath("0013_like_places.sql").read_text("utf-8")
    (function,) = re.findall(r"^CREATE FUNCTION .*?;$", migration, re.MULTILINE | re.DOTALL)
    with psycopg.connect(postgres_server.dsn) as connection:
        connection.execute(function.replace("like_place(", "pg_temp.like_place(").encode())
        yield connection


_BIGINTS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.one_of(st.tuples(_BIGINTS, _BIGINTS), _BIGINTS.map(lambda n: (n, n))), unique=True))
def test_bytes_sort_by_time_then_likes_made_here_then_revision(
    placing: psycopg.Connection, places: list[tuple[int, int]]
) -> None:
    """Revisions above zero; the place of a like that was made here has eight bytes."""
    places = [(time, rev) for time, rev in places if rev > 0]
    rows = placing.execute(
        "SELECT time, rev, length(pg_temp.like_place(time, rev))"
        " FROM unnest(%s::bigint[], %s::bigint[]) AS place (time, rev) ORDER BY pg_temp.like_place(time, rev)",
        [[time for time, _ in places], [rev for _, rev in places]],
    )
    assert rows.fetchall() == [
        (time, rev, 8 if time == rev else 16)
        for time, rev in sorted(places, key=lambda place: (place[0], place[0] != place[1], place[1]))
    ]


async def plan(connection: Connection, name: str, values: Mapping[str, int | bytes]) -> str:
    """How a statement is executed: in one form for all values, as by a node."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", QUERIES[name])))
    sql = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", QUERIES[name])
    await connection.execute(f"PREPARE {name} AS {sql}".encode())
    cursor = psycopg.AsyncClientCursor(connection)
    arguments = ", ".join(f"%({name})s" for name in names)
    await cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF) EXECUTE {name} ({arguments})".encode(), values)
    return "\n".join(row[0] for row in await cursor.fetchall())


def assert_reads(rows: int, plan: str, scan: str) -> None:
    """That the list's index gave so many rows, and none that were left out again."""
    _, found, after = plan.partition(f"{scan} using edges_s3_post_no_like_place_idx")
    its_own = after.partition("->")[0]
    assert found, plan
    assert re.search(rf" rows={rows}(\.00)? ", its_own), plan
    assert "Rows Removed" not in its_own, plan


@pytest.mark.parametrize("like_time", [None, NOW], ids=["made here", "imported, of one time"])
async def test_a_page_reads_what_it_has(node: Connection, like_time: int | None) -> None:
    """From the middle of a long list, by the index alone: without sorting the list, or what is before the page."""
    await node.execute(
        "INSERT INTO edges (rev, liked_at, slot, liked, post_no, user_id)"
        " SELECT %s + n, %s, %s, true, %s, int8send(n) FROM generate_series(1, 10000) AS n",
        [NOW, like_time, SLOT, POST_NO],
    )
    await node.execute("ANALYZE edges, posts")
    rev = NOW + 5000
    time = like_time or rev
    likers = await plan(
        node,
        "list_likers",
        {"slot": SLOT, "post_id": pack(POST), "before_time": time, "before": rev, "limit": 10},
    )
    assert_reads(10, likers, "Index Scan Backward")
    assert "Sort" not in likers, likers
    export = await plan(
        node,
        "export_likes",
        {"slot": SLOT, "after_post_no": POST_NO, "after_time": time, "after_rev": rev, "limit": 10},
    )
    assert_reads(10, export, "Index Scan")
    assert export.index("Index Scan") < export.index("Sort"), export  # only the page is sorted


async def test_a_database_of_before_has_its_lists_as_a_new_one_has(database: str, tmp_path: Path) -> None:
    """The same likes in the same order, by an index like that of a slot that is new here."""
    for file in MIGRATIONS.iterdir():
        if file.name < "0013" and file.name.endswith(".sql"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    async with await psycopg.AsyncConnection.connect(
        conninfo(database, "test"), autocommit=True
    ) as connection:
        await migrate(connection, tmp_path, schema=SCHEMA)
        await create_partitions(connection, [SLOT])
        await add_post(connection)
        await add_likes(connection, TIED)
        await migrate(connection, MIGRATIONS, schema=SCHEMA)
        await create_partitions(connection, [SLOT + 1])
        assert await listed(connection, 3) == OLDEST_FIRST[::-1]
        cursor = await connection.execute(
            "SELECT indrelid::regclass::text, replace(pg_get_indexdef(indexrelid), indrelid::regclass::text, 'edges')"
            " FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'edges'::regclass ORDER BY 2, 1"
        )
        definitions = await cursor.fetchall()
    old, new = (
        [what for table, what in definitions if table == f"edges_s{slot}"] for slot in (SLOT, SLOT + 1)
    )
    assert [re.sub(r"_s\d+", "", what) for what in old] == [re.sub(r"_s\d+", "", what) for what in new]
    assert sum("like_place" in what for what in old) == 1
    assert len(old) == 4
