"""What users like on a real Postgres: the newest of each edge, whatever is told when; listed newest first by pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from shard_node import user_store
from shard_node.store import Connection, Fence, FenceLost
from shard_node.user_chunks import Entry
from shard_node.user_likes import apply
from shard_node.user_store import UserLike
from tests.integration.node_database import prepared
from tests.parts.tellings import BEGIN, Tellings
from tests.parts.user_side import CHUNKS, told

SLOT = 3
FENCE = Fence(1, 1)
NEWEST = 2**63 - 1


@pytest.fixture
async def node(database: str) -> AsyncIterator[Connection]:
    async with prepared(database) as connection:
        yield connection


async def tell(node: Connection, user: str, edges: Sequence[tuple[Entry, bool]], slot: int = SLOT) -> None:
    """The newest of each edge, as the node does with what it gets together."""
    newest: dict[str, UserLike] = {}
    for entry, first in edges:
        known = newest.get(entry.post_id)
        if known is None or known.entry.rev < entry.rev:
            newest[entry.post_id] = UserLike(user, slot, entry, first)
    await apply(node, FENCE, list(newest.values()))


async def listed(node: Connection, user: str, size: int) -> list[tuple[str, int]]:
    """All pages of this size."""
    found: list[tuple[str, int]] = []
    before, below = NEWEST, ""
    while page := await user_store.list_liked_posts(node, SLOT, user, before, below, size):
        assert len(page) <= size
        found += page
        below, before = page[-1]
    return found


async def known(node: Connection) -> list[tuple[str, Entry]]:
    chunks = await (await node.execute(CHUNKS)).fetchall()
    return [(edge.user_id, Entry(*edge[1:])) for edge in told(chunks)]


@pytest.mark.parametrize("seed", range(8))
async def test_the_newest_of_each_edge_stands_and_is_listed(node: Connection, seed: int) -> None:
    """Of two users at once, through the statements that read as few chunks as they can."""
    posts = [f"p{n}" for n in range(30)] + [str(7 * 10**18 + n) for n in range(100)]
    tellings = {user: Tellings(2 * seed + n, posts, 900) for n, user in enumerate(("user", "other"))}
    for user, telling in tellings.items():
        for batch in telling.batches:
            await tell(node, user, batch)
    assert await known(node) == sorted(
        (user, entry) for user, telling in tellings.items() for entry in telling.newest().values()
    )
    for user, telling in tellings.items():
        likes = sorted(
            ((entry.like_time, entry.post_id) for entry in telling.newest().values() if entry.liked),
            reverse=True,
        )
        for size in (7, 1000):
            assert await listed(node, user, size) == [(post, like_time) for like_time, post in likes]


async def test_many_likes_are_no_burden(node: Connection) -> None:
    """Of ten thousand: a new one reads the newest chunk, an unlike besides that only where the post may be."""
    posts = [str(7 * 10**18 + n) for n in range(10_000)]
    edges = [(Entry(post, BEGIN + n, True, BEGIN + n), True) for n, post in enumerate(posts)]
    for start in range(0, len(edges), 500):
        await tell(node, "user", edges[start : start + 500])
    later = BEGIN + 10**6

    async def chunks_read(entry: Entry, *, first: bool) -> int:
        return len((await user_store.read_chunks(node, [UserLike("user", SLOT, entry, first)]))["user"])

    assert await chunks_read(Entry("new", later, True, later), first=True) == 1
    assert await chunks_read(Entry(posts[5000], later, False, later), first=False) == 2
    assert await chunks_read(Entry(posts[-1], later, False, later), first=False) == 1
    await tell(node, "user", [(Entry(posts[5000], later, False, later), False)])
    assert await listed(node, "user", 1000) == [
        (post, BEGIN + n) for n, post in reversed(list(enumerate(posts))) if n != 5000
    ]
    assert await user_store.count_told(node, SLOT, "user") == 10_000


async def test_many_changes_of_one_user_are_told_at_once(node: Connection) -> None:
    """To somebody who likes some thousands: taken back, given again, brought in among them; others are left alone."""
    posts = [str(7 * 10**18 + n) for n in range(4000)]
    await tell(
        node, "user", [(Entry(post, BEGIN + n, True, BEGIN + n), True) for n, post in enumerate(posts)]
    )
    await tell(node, "other", [(Entry(posts[0], BEGIN, True, BEGIN), True)])
    later = BEGIN + 10**6
    likes = {post: BEGIN + n for n, post in enumerate(posts)}
    await tell(
        node,
        "user",
        [(Entry(post, later + n, n % 4 == 0, later + n), False) for n, post in enumerate(posts[::2])]
        + [(Entry(f"old-{n}", later + 5000 + n, True, BEGIN + 2 * n), True) for n in range(300)],
    )
    likes |= {post: later + n for n, post in enumerate(posts[::2])}
    likes |= {f"old-{n}": BEGIN + 2 * n for n in range(300)}
    for post in (post for n, post in enumerate(posts[::2]) if n % 4):
        del likes[post]
    expected = sorted(((time, post) for post, time in likes.items()), reverse=True)
    assert await listed(node, "user", 1000) == [(post, time) for time, post in expected]
    assert await user_store.count_told(node, SLOT, "user") == 4300
    assert await listed(node, "other", 10) == [(posts[0], BEGIN)]


async def test_an_emptied_chunk_is_deleted(node: Connection) -> None:
    posts = [str(7 * 10**18 + n) for n in range(100)]
    await tell(
        node, "user", [(Entry(post, BEGIN + n, True, BEGIN + n), True) for n, post in enumerate(posts)]
    )
    cursor = await node.execute("SELECT count(*) FROM user_likes")
    assert await cursor.fetchone() == (2,)
    later = BEGIN + 1000
    unliked = [(Entry(post, later + n, False, later + n), False) for n, post in enumerate(posts)]
    await tell(node, "user", unliked)
    cursor = await node.execute("SELECT count(*) FROM user_likes WHERE entries = ''")
    assert await cursor.fetchone() == (0,)
    assert await known(node) == sorted(("user", entry) for entry, _ in unliked)


async def test_without_the_fence_nothing_is_written_or_deleted(node: Connection) -> None:
    """Nor is what is known already taken for accepted: another process may have moved the slot."""
    posts = [str(7 * 10**18 + n) for n in range(100)]
    await tell(
        node, "user", [(Entry(post, BEGIN + n, True, BEGIN + n), True) for n, post in enumerate(posts)]
    )
    before = await known(node)
    await node.execute("UPDATE writer SET slots_seq = slots_seq + 1")
    for edges in (
        [(Entry(post, BEGIN + 1000 + n, False, BEGIN + 1000 + n), False) for n, post in enumerate(posts)],
        [(Entry(posts[0], BEGIN, True, BEGIN), True)],
    ):
        with pytest.raises(FenceLost):
            await tell(node, "user", edges)
        assert await known(node) == before


async def test_a_page_goes_on_behind_a_like_that_is_gone(node: Connection) -> None:
    """A place needs no like that stands there; those of the same time come by their ids, from the last one on."""
    edges = [(Entry(f"p{n:03}", BEGIN + n, n != 50, 5), True) for n in range(100)]
    await tell(node, "user", edges)
    page = await user_store.list_liked_posts(node, SLOT, "user", 5, "p051", 3)
    assert page == [("p049", 5), ("p048", 5), ("p047", 5)]
    assert await user_store.list_liked_posts(node, SLOT, "user", 5, "", 3) == []
    assert await user_store.list_liked_posts(node, SLOT, "user", 0, "p", 3) == []
    assert await user_store.list_liked_posts(node, SLOT, "nobody", NEWEST, "", 3) == []
