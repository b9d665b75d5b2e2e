"""The users' side of a cluster whose nodes die: in the end it is what the posts' side is; nobody waits for the dead.

That it survives moves, whoever dies at whichever step, is part of what each test of handoffs looks at.
"""

from __future__ import annotations

import asyncio

import pytest

from likering import AsyncLikes
from likering.ring.hashing import slot_of
from tests.parts.one_handoff import SLOTS, Handoff, connect
from tests.parts.until import until

pytestmark = pytest.mark.timeout(120)


async def test_either_owner_dies_while_it_tells_and_is_told(handoff: Handoff) -> None:
    """By SIGKILL, in the midst of likes and unlikes; nothing is lost or doubled, and no unlike comes back."""
    for name in (handoff.source, handoff.target, handoff.source):
        await handoff.callers.more(60)
        await handoff.kill_and_await(name)
    await handoff.callers.more(60)
    await handoff.callers.stop()
    await handoff.users_told()


async def test_a_postgres_crashes_while_its_node_is_told(handoff: Handoff) -> None:
    """What it had acknowledged is there; what it had not is told again."""
    await handoff.callers.more(60)
    await handoff.crash_postgres(handoff.target)
    await until(handoff.takes_writes_of(handoff.target))
    await handoff.callers.stop()
    await handoff.users_told()


async def test_a_slot_takes_along_how_far_it_has_been_told(handoff: Handoff) -> None:
    """Noted when the target begins to serve: else all of the slot would be told again."""
    await handoff.begin_until(handoff.target, "serving")
    async with await connect(handoff.cluster.nodes[handoff.target].postgres_dsn) as connection:
        cursor = await connection.execute("SELECT marks FROM user_feeds WHERE slot = %s", [handoff.slot])
        row = await cursor.fetchone()
    handoff.release(handoff.target)
    assert row is not None
    assert row[0].keys() == set(handoff.cluster.nodes)
    assert min(row[0].values()) > 0
    await handoff.ends()


async def test_the_feed_of_a_dead_node_holds_up_nobody_else(handoff: Handoff) -> None:
    """While it is dead, users of the other node see what they like; its own see theirs when it is back."""
    owners = (await handoff.topology()).owners
    post = next(post for post in handoff.callers.posts if owners[slot_of(post, SLOTS)] == handoff.source)
    users = {
        owner: [user for user in (f"seen-{n}" for n in range(200)) if owners[slot_of(user, SLOTS)] == owner][
            :5
        ]
        for owner in (handoff.source, handoff.target)
    }
    await handoff.callers.stop()
    async with AsyncLikes(handoff.cluster.address, timeout=10.0) as likes:
        with handoff.failpoints.kept_dead(handoff.target):
            handoff.kill(handoff.target)
            everybody = [user for group in users.values() for user in group]
            await asyncio.gather(*(likes.like(user, post) for user in everybody))
            await _shown(likes, users[handoff.source], 30)
        await _shown(likes, users[handoff.target], 60)
    await handoff.users_told()


async def _shown(likes: AsyncLikes, users: list[str], seconds: float) -> None:
    """Waits until each of the users sees something liked."""
    async with asyncio.timeout(seconds):
        for user in users:
            while not len(await likes.list_liked_posts(user)):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
