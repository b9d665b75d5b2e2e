"""The change feed of a node on a real Postgres: pages, what commits wake, slots that freeze, move and come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest

from likering.cursors import FROM_NOW
from likering.errors import ShardUnavailable
from likering.ring.hashing import slot_of
from likering.v1.like_service_pb2 import LikeEvent
from shard_node import feed as feed_module
from shard_node import store
from shard_node.admin.imports import Imports
from shard_node.purge_keys import KIND_AT, PLACES
from shard_node.queries import query
from shard_node.store import Connection
from tests.integration.feed_node import POST, Node, Reading, feed_node, told
from tests.integration.node_database import EPOCH, SLOTS, prepared, unit


@pytest.fixture
async def node(database: str) -> AsyncIterator[Node]:
    async with feed_node(database, Node) as node:
        yield node


async def test_what_is_there_comes_first_and_then_what_is_committed(node: Node) -> None:
    await node.act((True, POST, "u1"), (True, POST, "u2"))
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        events = await reading.events(2)
        assert told(events) == [("u1", True, True), ("u2", True, True)]
        assert [(e.post_id, e.like_count.count, e.like_count.version) for e in events] == [(POST, 2, 2)] * 2
        await node.act((False, POST, "u1"))
        (event,) = await reading.events(1)
        assert told([event]) == [("u1", False, False)]
        assert (event.like_count.count, event.like_count.version) == (1, 3)
        assert event.like_time.ToMicroseconds() > events[1].like_time.ToMicroseconds()


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_each_first_like_comes_once_whatever_the_pages(node: Node, limit: int) -> None:
    """Likes, unlikes and likes again before anybody looks, and between two pages."""
    users = [f"u{n}" for n in range(9)]
    posts = [f"p{n}" for n in range(12)]
    for user in users:
        await node.act(*[(True, post, user) for post in posts])
    await node.act(*[(False, post, user) for post in posts for user in users[::2]])
    await node.act(*[(True, post, user) for post in posts for user in users[::4]])
    firsts: list[tuple[str, str]] = []
    last: dict[tuple[str, str], LikeEvent] = {}
    toggled = False
    async with aclosing(node.stream(limit=limit)) as changes:
        reading = Reading(changes)
        while len(firsts) < len(users) * len(posts) or not toggled:
            for event in await reading.events(1):
                edge = event.post_id, event.user_id
                if event.first_like:
                    firsts.append(edge)
                before = last.get(edge, event)
                assert before.like_time.ToMicroseconds() <= event.like_time.ToMicroseconds()
                assert before.like_count.version <= event.like_count.version
                last[edge] = event
            if not toggled and len(firsts) > len(posts):
                toggled = True
                await node.act(*[(False, post, "u1") for post in posts])
                await node.act(*[(True, post, "u1") for post in posts[::2]])
        # What is left are the changes of the edges that were told of as first likes already.
        while not all(
            last[post, user].liked is liked
            for post in posts
            for user in users
            for liked in [_liked(post, user)]
        ):
            for event in await reading.events(1):
                assert not event.first_like
                last[event.post_id, event.user_id] = event
    assert sorted(firsts) == sorted((post, user) for post in posts for user in users)


def _liked(post: str, user: str) -> bool:
    number = int(user[1:])
    if user == "u1":
        return int(post[1:]) % 2 == 0
    return number % 2 == 1 or number % 4 == 0


async def test_a_stream_goes_on_from_a_position(node: Node) -> None:
    await node.act((True, POST, "u1"), (True, POST, "u2"), (True, POST, "u3"))
    async with aclosing(node.stream(limit=2)) as changes:
        reading = Reading(changes)
        first = await reading.events(2)
        stands = reading.positions[3]
    await node.act((False, POST, "u1"), (True, POST, "u1"))
    async with aclosing(node.stream({3: stands}, limit=2)) as changes:
        rest = await Reading(changes).events(4 - len(first))
    assert told([*first, *rest]) == [
        ("u1", True, True),
        ("u2", True, True),
        ("u3", True, True),
        ("u1", True, False),
    ]


async def test_from_now_tells_where_it_begins(node: Node) -> None:
    await node.act((True, POST, "u1"), (True, POST, "u2"))
    async with aclosing(node.stream(dict.fromkeys(range(SLOTS), FROM_NOW))) as changes:
        reading = Reading(changes)
        response = await reading.response()
        assert not response.events
        assert sorted(response.slots) == list(range(SLOTS))
        await node.act((False, POST, "u1"), (True, POST, "u1"), (True, POST, "u3"))
        assert sorted(told(await reading.events(2))) == [("u1", True, False), ("u3", True, True)]


async def test_unlikes_of_what_was_never_liked_are_no_events(node: Node) -> None:
    other = next(f"q{n}" for n in range(1000) if slot_of(f"q{n}", SLOTS) == 3)
    # Of a post that never changed, and of one that has.
    await node.writer.submit(unit([(False, post, f"u{n}", 5) for post in (other, POST) for n in range(5)]))
    await node.act((True, POST, "u9"))
    async with aclosing(node.stream(limit=2)) as changes:
        assert told(await Reading(changes).events(1)) == [("u9", True, True)]


async def test_a_page_has_its_largest_size_whatever_is_asked_for(node: Node) -> None:
    await node.act(*[(True, POST, f"u{n}") for n in range(2100)])
    async with aclosing(node.stream({3: 0}, limit=10_000)) as changes:
        events = await Reading(changes).events(2100)
    assert [event.user_id for event in events] == [f"u{n}" for n in range(2100)]


async def test_a_burst_of_commits_costs_few_looks(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    read_changes = store.read_changes

    async def counted(*arguments: object, **options: object) -> object:
        nonlocal looks
        looks += 1
        return await read_changes(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "read_changes", counted)
    monkeypatch.setattr(feed_module, "TAIL_INTERVAL", 0.3)
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        waiting = asyncio.ensure_future(reading.events(60))
        for number in range(60):
            await node.act((True, f"p{number}", "u"))
        assert len(await waiting) == 60
    assert looks <= 8


async def test_a_frozen_slot_is_told_to_its_end_and_then_the_new_owner_is_asked(node: Node) -> None:
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        await node.act((True, POST, "u1"))
        await reading.events(1)
        await node.act((True, POST, "u2"))
        await node.state(3, "frozen")
        assert told(await reading.events(1)) == [("u2", True, True)]
        # Other slots' changes raise the node's revisions, which say nothing about this slot any more.
        other = next(f"p{n}" for n in range(1000) if slot_of(f"p{n}", SLOTS) == 4)
        await node.act((True, other, "u1"))
        (event,) = await reading.events(1)
        assert reading.positions[3] < event.like_time.ToMicroseconds()
        stands = reading.positions[3]
        await node.state(3, "moved")
        while not reading.gone:
            await reading.response()
        assert (reading.gone, reading.positions[3]) == ([3], stands)
        await node.act((True, other, "u2"))
        assert told(await reading.events(1)) == [("u2", True, True)]


async def test_a_slot_that_is_given_back_goes_on(node: Node) -> None:
    async with aclosing(node.stream()) as changes:
        reading = Reading(changes)
        await node.state(3, "frozen")
        await node.state(3, "owner")
        await node.act((True, POST, "u1"))
        assert told(await reading.events(1)) == [("u1", True, True)]
        assert not reading.gone


async def test_a_slot_of_another_epoch_is_not_streamed_and_one_that_arrives_is_waited_for(node: Node) -> None:
    node.ownership.arrives(5, EPOCH + 1)
    async with aclosing(node.feed.changes({3: EPOCH + 1, 5: EPOCH + 1}, {3: 0, 5: 0}, 10)) as changes:
        reading = Reading(changes)
        await reading.response()
        assert reading.gone == [3]

        async def arrive(connection: Connection) -> None:
            await connection.execute("UPDATE slots SET epoch = %s WHERE slot = 5", [EPOCH + 1])

        await node.writer.change_slots(arrive)
        post = next(f"p{n}" for n in range(1000) if slot_of(f"p{n}", SLOTS) == 5)
        write = unit([(True, post, "u1", 0)])
        write.epochs = [EPOCH + 1]
        await node.writer.submit(write)
        assert told(await reading.events(1)) == [("u1", True, True)]


async def test_a_stream_ends_with_its_last_slot(node: Node) -> None:
    async with aclosing(node.feed.changes({3: EPOCH + 1}, {3: 0}, 10)) as changes:
        reading = Reading(changes)
        await reading.response()
        assert reading.gone == [3]
        with pytest.raises(StopAsyncIteration):
            await reading.response()


async def test_a_node_that_is_not_sure_to_lead_tells_nothing(node: Node) -> None:
    node.leadership._leased_until = 0.0
    node.leadership.proved = lambda began: None  # type: ignore[method-assign]
    async with aclosing(node.stream()) as changes:
        with pytest.raises(ShardUnavailable):
            await anext(changes)


async def test_pages_are_read_by_the_index(database: str) -> None:
    """Of a slot with many edges and posts, whatever the plan is made for."""
    async with prepared(database) as connection:
        await connection.execute(
            "INSERT INTO edges (rev, slot, liked, post_no, user_id)"
            " SELECT n, 3, true, 1 + n % 5000, convert_to('u' || n, 'UTF8') FROM generate_series(1, 20000) AS n"
        )
        await connection.execute(
            "INSERT INTO posts (version, like_count, post_no, slot, post_id)"
            " SELECT 4, 4, n, 3, convert_to('p' || n, 'UTF8') FROM generate_series(1, 5000) AS n"
        )
        await connection.execute("ANALYZE edges, posts")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        sql = query("read_changes_and_purges", slots=4)
        values = {f"slot_{n}": 3 for n in range(4)} | {"slots": "{3}", "positions": "{100}", "limit": 10}
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute("EXPLAIN (ANALYZE) " + sql, values | {"places": PLACES, "kind_at": KIND_AT})
        plan = "\n".join(row[0] for row in await cursor.fetchall())
    assert "Seq Scan on edges" not in plan, plan
    assert "Seq Scan on posts" not in plan, plan
    assert "rev_idx" in plan
    # Purges stand at the end of the primary key: of the 5,000 posts none is looked at on the way there.
    assert "Rows Removed" not in plan, plan


async def test_one_read_that_hangs_does_not_end_the_feed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server neither answers nor hangs up, while everything else is well."""
    monkeypatch.setattr(feed_module, "PAGE_TIMEOUT", 0.5)
    read, hung = store.read_changes, False

    async def read_changes(*arguments: Any, **options: Any) -> Any:
        nonlocal hung
        if not hung:
            hung = True
            await asyncio.Event().wait()
        return await read(*arguments, **options)

    monkeypatch.setattr(store, "read_changes", read_changes)
    await node.act((True, POST, "u1"))
    with pytest.raises(ShardUnavailable):
        async with aclosing(node.stream()) as changes:
            await anext(changes)
    async with aclosing(node.stream()) as changes:
        assert (await anext(changes)).events[0].user_id == "u1"


async def test_imported_likes_are_no_first_likes(node: Node) -> None:
    """They are told, with their own times; but whoever notifies of first likes has nothing to say of them."""
    await node.act((True, POST, "now"))
    async with aclosing(node.stream()) as changes:
        response = await anext(changes)
    positions = dict(zip(response.slots, response.positions, strict=True))
    imports = Imports(node.ownership, node.writer)
    await imports.insert([POST], ["long ago"], [EPOCH], [1_400_000_000_000_000])
    async with aclosing(node.stream(positions)) as changes:
        (event,) = (await anext(changes)).events
    assert (event.user_id, event.like_time.seconds) == ("long ago", 1_400_000_000)
    assert not event.first_like
