"""After a move, what the slot's users like is on the target as the source keeps it, or newer; else it is found."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from likering.dev.postgres import PostgresServer
from likering.topology.move_names import kept
from shard_node.handoff import user_verification
from shard_node.handoff.user_verification import user_likes_problem
from shard_node.purge_keys import user_mark_key
from shard_node.store import Connection, Fence
from shard_node.user_chunks import UNLIKES_KEPT, Entry
from shard_node.user_likes import apply
from shard_node.user_store import UserLike
from tests.integration.node_database import prepared
from tests.parts.user_side import write_told

SLOT, MOVE, LAST_REV = 3, 7, 1000
NOW = time.time_ns() // 1000
POSTS = [f"post-{n:03}" for n in range(200)]
"""More than a chunk has room for."""
LIKES = {
    "few": [Entry("p", NOW, True, NOW), Entry("q", NOW + 1, False, NOW + 1)],
    "many": [Entry(post, NOW + n, n % 3 > 0, NOW + n) for n, post in enumerate(POSTS)],
    "brought in": [Entry(post, NOW + n, True, 5) for n, post in enumerate(POSTS)],
    "last": [Entry("p", NOW, True, NOW)],
}


@pytest.fixture
async def both(
    database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A source, and a target with the same likes; questions are of three chunks each."""
    monkeypatch.setattr(user_verification, "_PIECE", 3)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE target_of_users")
    try:
        async with (
            prepared(database, slots=[SLOT]) as source,
            prepared(postgres_server.dsn_of("target_of_users"), slots=[SLOT]) as target,
        ):
            await write_told(source, SLOT, LIKES)
            await write_told(target, SLOT, LIKES)
            yield source, target
    finally:
        with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
            admin.execute("DROP DATABASE target_of_users WITH (FORCE)")


async def problem(both: tuple[Connection, Connection]) -> str:
    """What a comparison finds with the copy that the source keeps of what it has."""
    copy = sql.Identifier(kept("user_likes", SLOT, MOVE))
    await both[0].execute(sql.SQL("DROP TABLE IF EXISTS {}").format(copy))
    await both[0].execute(sql.SQL("CREATE TABLE {} AS SELECT * FROM user_likes").format(copy))
    return await user_likes_problem(*both, SLOT, MOVE, LAST_REV)


async def test_what_has_been_told_since_is_no_difference(both: tuple[Connection, Connection]) -> None:
    """Also where it has made other chunks of the same likes, or a user has come."""
    assert await problem(both) == ""
    later = NOW + 1_000_000
    told = [
        UserLike("few", SLOT, Entry("p", later, False, later), first=False),
        UserLike("new", SLOT, Entry("p", later, True, later), first=True),
        *[
            UserLike("many", SLOT, Entry(post, later + n, n % 2 > 0, later + n), first=False)
            for n, post in enumerate(POSTS[:150])
        ],
        *[UserLike("brought in", SLOT, Entry(f"a{post}", later, True, 5), first=True) for post in POSTS],
    ]
    await apply(both[1], Fence(1, 1), told)
    assert await problem(both) == ""


async def test_a_user_whose_id_begins_as_that_of_another_is_compared(
    both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytes: 256 is those of 1 and a zero. The other one ends a page, and has changed."""
    monkeypatch.setattr(user_verification, "_PIECE", 1)
    told, later = Entry("p", NOW, True, NOW), Entry("p", NOW + 1, False, NOW + 1)
    await write_told(both[0], SLOT, {"1": [told], "256": [told]})
    await write_told(both[1], SLOT, {"1": [later]})
    assert "1 likes" in await problem(both)


@pytest.mark.parametrize("user", LIKES)
async def test_every_difference_is_found(both: tuple[Connection, Connection], user: str) -> None:
    """Of any user, one is enough: what is older, missing, or not the same at the same revision."""
    *others, last = LIKES[user]
    for wrong in (
        last._replace(rev=last.rev - 1),
        last._replace(liked=not last.liked),
        last._replace(like_time=4),
        last._replace(post_id="other"),
    ):
        await write_told(both[1], SLOT, {user: [*others, wrong]})
        assert (await problem(both)).startswith("1 likes of the slot's users")
    await write_told(both[1], SLOT, {user: []})
    assert (await problem(both)).startswith(f"{len(LIKES[user])} likes of the slot's users")


async def test_an_old_unlike_may_have_been_dropped_and_nothing_else(
    both: tuple[Connection, Connection],
) -> None:
    old = NOW - UNLIKES_KEPT - 1
    for liked, expected in ((False, ""), (True, "1 likes of the slot's users")):
        await write_told(both[0], SLOT, {"few": [*LIKES["few"], Entry("old", old, liked, old)]})
        found = await problem(both)
        assert found.startswith(expected)
        assert bool(found) is bool(expected)


async def test_a_copy_of_a_version_that_had_another_users_side_is_not_compared(
    both: tuple[Connection, Connection],
) -> None:
    """The migration drops it."""
    await write_told(both[1], SLOT, {"many": []})
    assert await user_likes_problem(*both, SLOT, MOVE, LAST_REV) == ""


async def test_a_user_purged_since_the_move_is_no_difference(both: tuple[Connection, Connection]) -> None:
    """What the user likes is gone, but for the mark, or the receipt. One of before the move explains nothing."""
    target = both[1]
    await write_told(target, SLOT, {"many": []})
    for mark, expected in (
        ("5, NULL", ""),
        (f"NULL, {LAST_REV + 1}", ""),
        (f"NULL, {LAST_REV}", "200 likes of the slot's users"),
    ):
        await target.execute("DELETE FROM posts WHERE post_id = %s", [user_mark_key("many")])
        await target.execute(
            "INSERT INTO posts (version, like_count, slot, post_id, purge_began, purged_rev)"
            f" VALUES (0, 0, {SLOT}, %s, {mark})".encode(),
            [user_mark_key("many")],
        )
        found = await problem(both)
        assert found.startswith(expected)
        assert bool(found) is bool(expected)
