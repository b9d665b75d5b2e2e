"""A database of before keeps what its users like, in chunks, and in tables as a new node has them."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from likering.postgres.migrations import migrate
from shard_node.partitions import create_partitions
from shard_node.store import Connection
from shard_node.user_chunks import FULL, Entry, decode, place
from tests.integration.node_database import MIGRATIONS, migrations_before
from tests.parts.tellings import BEGIN
from tests.parts.user_side import CHUNKS, Told, told


@pytest.fixture
async def before(database: str, tmp_path: Path) -> AsyncIterator[Connection]:
    """A database of the version before, with slots 1 and 2, a copy that is kept of slot 3, and nobody's likes."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await migrate(connection, migrations_before("0006", tmp_path), schema="likering")
        await connection.execute(
            "INSERT INTO slots (slot, epoch, state) VALUES (1, 1, 'owner'), (2, 1, 'owner')"
        )
        await migrate(connection, migrations_before("0011", tmp_path), schema="likering")
        await connection.execute("CREATE TABLE user_likes_s3_m7 (LIKE user_likes)")
        yield connection


def ids(chance: random.Random, number: int) -> set[str]:
    """Of all kinds, and next to the limits of each."""
    return {
        *[str(chance.randrange(10 ** chance.randrange(1, 23))) for _ in range(number)],
        *[str(uuid.UUID(int=chance.getrandbits(128) >> chance.choice((0, 8)))) for _ in range(number)],
        *[
            "".join(chance.choices(string.printable + "äß€\U0001f600", k=chance.randrange(1, 33)))
            for _ in range(number)
        ],
        *[str(2**power + n) for power in (8, 16, 63, 64) for n in (-1, 0, 1)],
        *(
            "0",
            "00",
            "01",
            "-1",
            "x" * 128,
            "٣",
            "F47AC10B-58CC-4372-A567-0E02B2C3D479",
            "\\",
            "'",
            "\U0001f600" * 32,
        ),
    }


async def test_every_edge_is_kept(before: Connection) -> None:
    """Of users and posts with any ids, users with one like and with hundreds, imports and unlikes."""
    chance = random.Random(5)
    posts, users = ids(chance, 150), ids(chance, 30)
    edges = [
        Told(user, post, BEGIN + n, chance.random() < 0.8, like_time)
        for user in users
        for n, post in enumerate(chance.sample(sorted(posts), chance.choice((1, 20, len(posts)))))
        for like_time in (chance.choice((BEGIN + n, BEGIN + n, 5, 0)),)
    ]
    async with (
        before.cursor() as cursor,
        cursor.copy("COPY user_likes (rev, slot, liked, user_id, post_id, liked_at) FROM STDIN") as copy,
    ):
        for edge in edges:
            own_time = None if edge.like_time == edge.rev else edge.like_time
            slot = 1 + len(edge.user_id) % 2
            await copy.write_row((edge.rev, slot, edge.liked, edge.user_id, edge.post_id, own_time))
    await migrate(before, MIGRATIONS, schema="likering")
    chunks = await (await before.execute(CHUNKS)).fetchall()
    assert told(chunks) == sorted(edges)
    assert max(len(entries) for _, entries in chunks) <= FULL
    await _in_order(before)
    cursor = await before.execute(
        "SELECT count(*) FROM user_likes WHERE slot <> 1 + length(user_id) %% 2", []
    )
    assert await (await before.execute("SELECT to_regclass('user_likes_s3_m7')")).fetchone() == (None,)


async def _in_order(connection: Connection) -> None:
    """Each chunk holds the places from its ``since`` on, newest first; the first of a user all from the beginning."""
    cursor = await connection.execute("SELECT user_id, since, entries FROM user_likes ORDER BY 1, 2")
    by_user: dict[bytes, list[tuple[bytes, list[Entry]]]] = {}
    for user, since, entries in await cursor.fetchall():
        by_user.setdefault(user, []).append((since, list(decode(entries))))
    for chunks in by_user.values():
        assert chunks[0][0] == b""
        ends = [*(since for since, _ in chunks), b"\xff"][1:]
        for (since, entries), end in zip(chunks, ends, strict=True):
            places = [place(entry.like_time, entry.post_id) for entry in entries]
            assert places == sorted(places, reverse=True)
            assert since <= places[-1] <= places[0] < end


async def test_its_tables_are_those_that_a_new_slot_gets(before: Connection) -> None:
    """Columns, how they are stored, indexes; none has a place for what is too long."""
    await migrate(before, MIGRATIONS, schema="likering")
    await create_partitions(before, [4])

    async def table(slot: int) -> list[Any]:
        cursor = await before.execute(
            "SELECT attname, atttypid::regtype::text, attnotnull, attstorage FROM pg_attribute"
            " WHERE attrelid = %(oid)s::regclass AND attnum > 0"
            " UNION ALL SELECT 'index', substring(pg_get_indexdef(indexrelid) FROM 'USING.*'), indisunique, ''"
            " FROM pg_index WHERE indrelid = %(oid)s::regclass"
            " UNION ALL SELECT 'options', reloptions::text, reltoastrelid <> 0, ''"
            " FROM pg_class WHERE oid = %(oid)s::regclass ORDER BY 1",
            {"oid": f"likering.user_likes_s{slot}"},
        )
        return await cursor.fetchall()

    assert await table(1) == await table(2) == await table(4)
    assert ("options", None, False, "") in await table(4)
