"""Lists over pages while their slots move: complete, in order, without repeats, and no call fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from likering import AsyncLikes, Mutation
from likering.dev.cluster import EmbeddedCluster
from tests.parts.resizing import Resizing

pytestmark = pytest.mark.timeout(120)

POSTS = [f"post-{number}" for number in range(16)]
USERS = [f"user-{number:03}" for number in range(120)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Of two nodes; a third one joins."""
    with EmbeddedCluster(tmp_path, nodes=2, slots=16) as cluster:
        yield cluster


async def test_lists_are_complete_while_slots_move(cluster: EmbeddedCluster) -> None:
    """Those who like all the time are listed by each run over the pages; others come and go meanwhile."""
    async with Resizing(cluster) as resizing, AsyncLikes(cluster.address, timeout=10.0) as likes:
        await resizing.moves.set_limits(slots_at_once=2, rows_per_second=0, pause_budget_ms=1000)
        for post in POSTS:
            await likes.mutate([Mutation.like(user, post) for user in USERS])
        moved = asyncio.Event()
        listing = asyncio.create_task(_list_until(likes, moved))
        toggling = asyncio.create_task(_toggle_until(likes, moved))
        try:
            await asyncio.to_thread(cluster.add_node, "c")
            resize, plan = await resizing.begin()
            assert plan.minimum
            await resizing.settled(resize)
            await resizing.drain("c")
            resize, _ = await resizing.begin()
            await resizing.settled(resize)
        finally:
            moved.set()
            runs, _ = await asyncio.gather(listing, toggling)
        assert runs > len(POSTS)


async def _list_until(likes: AsyncLikes, end: asyncio.Event) -> int:
    """Lists one post after the other; returns how often. An AssertionError for a list that is not as it must be."""
    runs = 0
    while not end.is_set():
        post = POSTS[runs % len(POSTS)]
        listed = [like async for like in likes.likers(post, page_size=17)]
        users = [like.user_id for like in listed]
        assert len(users) == len(set(users)), post
        assert [user for user in users if user in _STEADY] == USERS[::-1], post
        times = [like.like_time for like in listed]
        assert times == sorted(times, reverse=True), post
        runs += 1
    return runs


async def _toggle_until(likes: AsyncLikes, end: asyncio.Event) -> None:
    while not end.is_set():
        for act in (likes.like, likes.unlike):
            await asyncio.gather(*(act(f"passing-{number}", post) for post in POSTS for number in range(3)))


_STEADY = frozenset(USERS)
