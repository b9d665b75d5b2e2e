"""The count cache on a real Valkey: never wrong, cold at worst."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from likering.dev.valkey import ValkeyServer
from shard_node.cache import CountCache
from shard_node.ownership import HeldSlot, Ownership, SlotState
from shard_node.store import PostCount
from tests.parts.until import until

SLOTS = {"p1": 1, "p2": 2, "p3": 3}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey of the test's own: it is killed, frozen and reconfigured."""
    server = ValkeyServer(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ownership() -> Ownership:
    """All slots owned, at their first epoch."""
    ownership = Ownership(8)
    ownership.replace(dict.fromkeys(range(8), HeldSlot(1, SlotState.OWNER)))
    return ownership


@pytest.fixture
async def cache(server: ValkeyServer, ownership: Ownership) -> AsyncIterator[CountCache]:
    """A cache that was never used, and is patient with a busy machine."""
    cache = CountCache(server.url, "test", ownership, read_timeout=5.0, write_timeout=5.0)
    cache.start()
    yield cache
    await cache.close()


async def hold(cache: CountCache, *post_ids: str) -> None:
    """Caches these posts as reads do, at version and count 1."""
    await cache.fill(cache.mark(), SLOTS, dict.fromkeys(post_ids, PostCount(1, 1)))


async def test_only_a_newer_version_is_set(cache: CountCache) -> None:
    """Publications may arrive out of order; posts that nobody reads are not cached."""
    await hold(cache, "p1", "p2")
    await cache.publish(SLOTS, {"p1": PostCount(7, 5), "p3": PostCount(1, 1)})
    await cache.publish(SLOTS, {"p1": PostCount(6, 6)})
    assert await cache.get(SLOTS) == {"p1": PostCount(7, 5), "p2": PostCount(1, 1)}


async def test_likes_of_posts_that_nobody_reads_cost_the_server_nothing(
    cache: CountCache, server: ValkeyServer
) -> None:
    """What is not cached is not even asked for."""
    await hold(cache, "p1")
    async with Redis.from_url(server.url) as client:
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await cache.publish(SLOTS, {"p2": PostCount(1, 1), "p3": PostCount(1, 1)})
        assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] == before


async def test_too_many_cached_posts_to_remember_are_all_published(
    cache: CountCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then as before: a commit asks for each of its posts."""
    monkeypatch.setattr("shard_node.cache.MAX_HELD", 1)
    await hold(cache, "p1", "p2")
    await cache.publish(SLOTS, {"p1": PostCount(2, 2), "p2": PostCount(3, 3), "p3": PostCount(4, 4)})
    assert await cache.get(SLOTS) == {"p1": PostCount(2, 2), "p2": PostCount(3, 3)}


async def test_more_posts_than_a_script_can_unpack_at_once(cache: CountCache) -> None:
    """A batch may change thousands of posts."""
    posts = {f"p{n}": n % 8 for n in range(2500)}
    await cache.fill(cache.mark(), posts, dict.fromkeys(posts, PostCount(1, 1)))
    await cache.publish(posts, {post_id: PostCount(2, n) for n, post_id in enumerate(posts)})
    assert await cache.get(posts) == {post_id: PostCount(2, n) for n, post_id in enumerate(posts)}


async def test_a_fill_that_was_overtaken_is_dropped(cache: CountCache, server: ValkeyServer) -> None:
    """Even when what overtook it was evicted meanwhile, so that the version cannot tell."""
    mark = cache.mark()
    await cache.publish(SLOTS, {"p1": PostCount(2, 2)})
    async with Redis.from_url(server.url) as redis:
        await redis.flushall()
    await cache.fill(mark, SLOTS, {"p1": PostCount(1, 1), "p2": PostCount(4, 4)})
    assert await cache.get(SLOTS) == {"p2": PostCount(4, 4)}


async def test_a_fill_on_its_way_loses_against_a_publication(
    server: ValkeyServer, ownership: Ownership
) -> None:
    """Each fill here opens a connection, and the publication, on an open one, overtakes it."""
    cache = CountCache(server.url, "test", ownership, read_timeout=5.0, write_timeout=5.0)
    posts = {f"p{n}": n % 8 for n in range(200)}
    await cache.publish(posts, {"p0": PostCount(1, 1)})

    async def race(post_id: str) -> None:
        filling = asyncio.create_task(cache.fill(cache.mark(), posts, {post_id: PostCount(5, 5)}))
        await asyncio.sleep(0)
        await cache.publish(posts, {post_id: PostCount(6, 6)})
        await filling

    for first in range(0, 200, 20):
        await asyncio.gather(*(race(f"p{n}") for n in range(first, first + 20)))
    held = await cache.get(posts)
    assert [post_id for post_id, count in held.items() if count.version < 6] == []
    await cache.close()


async def test_a_new_writer_begins_cold(cache: CountCache) -> None:
    """What an earlier generation cached, or still caches, is out of reach."""
    await hold(cache, "p1")
    cache.new_writer(2)
    assert await cache.get(SLOTS) == {}


async def test_a_slot_that_comes_back_begins_cold(cache: CountCache, ownership: Ownership) -> None:
    """Its epoch has grown; the other slots stay warm."""
    await hold(cache, "p1", "p2")
    ownership.replace({**ownership.held, 1: HeldSlot(3, SlotState.OWNER)})
    assert await cache.get(SLOTS) == {"p2": PostCount(1, 1)}


async def test_a_killed_server_costs_answers_nothing(cache: CountCache, server: ValkeyServer) -> None:
    """Reads find nothing, writes do not fail, and a cold cache is there after the restart."""
    await hold(cache, "p1")
    server.kill()
    assert await cache.get(SLOTS) == {}
    await cache.publish(SLOTS, {"p1": PostCount(2, 2)})
    assert cache.down
    server.start()
    await until(lambda: not cache.down)
    assert await cache.get(SLOTS) == {}
    await hold(cache, "p1")
    assert await cache.get(SLOTS) == {"p1": PostCount(1, 1)}


async def test_a_restart_between_two_commands_is_noticed(cache: CountCache, server: ValkeyServer) -> None:
    """A server that comes back with an old snapshot of itself must not be believed."""
    await hold(cache, "p1")
    async with Redis.from_url(server.url) as redis:
        await redis.save()
    await cache.publish(SLOTS, {"p1": PostCount(2, 2)})
    server.kill()
    server.start()
    assert await cache.get(SLOTS) == {}
    await until(lambda: not cache.down)
    assert await cache.get(SLOTS) == {}


async def test_a_frozen_server_is_given_up_at_once(server: ValkeyServer, ownership: Ownership) -> None:
    """One command waits for the timeout, the next ones do not; late commands reach only an ended generation."""
    cache = CountCache(server.url, "test", ownership)
    cache.start()
    server.kill(signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            while not cache.down:
                assert await cache.get(SLOTS) == {}
            await cache.publish(SLOTS, {"p1": PostCount(2, 2)})
    finally:
        server.kill(signal.SIGCONT)
    await until(lambda: not cache.down)
    assert await cache.get(SLOTS) == {}
    await cache.close()


async def test_a_refused_write_makes_posts_dirty_until_it_is_repeated(
    cache: CountCache, server: ValkeyServer
) -> None:
    """A server without memory: those posts come from the database, and from the cache again when there is room."""
    await hold(cache, "p1", "p2")
    async with Redis.from_url(server.url) as redis:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", "1")
        await cache.publish(SLOTS, {"p1": PostCount(2, 2)})
        assert await cache.get(SLOTS) == {"p2": PostCount(1, 1)}
        await redis.config_set("maxmemory", "0")
        async with asyncio.timeout(20):
            while "p1" not in (counts := await cache.get(SLOTS)):  # noqa: ASYNC110 - the condition awaits
                await asyncio.sleep(0.01)
    assert counts == {"p1": PostCount(2, 2), "p2": PostCount(1, 1)}


async def test_corrupted_values_are_misses(cache: CountCache, server: ValkeyServer) -> None:
    """And are overwritten by the next count."""
    await hold(cache, *SLOTS)
    async with Redis.from_url(server.url) as redis:
        keys = sorted(await redis.keys("*"))
        for key, junk in zip(keys, [b"", b"\xff\x00", b"-1 9"], strict=True):
            await redis.set(key, junk)
    assert await cache.get(SLOTS) == {}
    await cache.publish(SLOTS, {post_id: PostCount(2, 2) for post_id in SLOTS})
    assert await cache.get(SLOTS) == {post_id: PostCount(2, 2) for post_id in SLOTS}
