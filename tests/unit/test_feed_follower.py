"""Which slots a stream of changes looks at next: none waits for ever, whatever is committed meanwhile."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from shard_node import feed
from shard_node.feed import Follower

SLOTS = range(200)


async def test_every_slot_is_looked_at_while_commits_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each look leaves more touched than it could take."""
    monkeypatch.setattr(feed, "TAIL_INTERVAL", 0.0)
    chance = random.Random(1)
    follower = Follower(dict.fromkeys(SLOTS, 0))
    looked: Counter[int] = Counter()
    for _ in range(300):
        await follower.due()
        looked.update(follower.take(1000))
        follower.touch(frozenset(chance.choices(SLOTS, k=150)))
    assert min(looked[slot] for slot in SLOTS) > 10
    assert max(looked.values()) < 10 * min(looked.values())


async def test_what_there_is_more_of_is_read_while_commits_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is behind gets both."""
    monkeypatch.setattr(feed, "TAIL_INTERVAL", 0.0)
    follower = Follower(dict.fromkeys(SLOTS, 0))
    looked: Counter[int] = Counter()
    for _ in range(300):
        follower.touch(frozenset(range(100)))
        follower.is_behind(199)  # a page was full: there is more of it
        await follower.due()
        looked.update(follower.take(1000))
    assert looked[199] > 50
    assert looked[99] > 50


async def test_a_look_follows_on_the_last_one_after_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed meanwhile is read with it."""
    monkeypatch.setattr(feed, "TAIL_INTERVAL", 3600.0)
    follower = Follower(dict.fromkeys(range(3), 0))
    await follower.due()
    assert sorted(follower.take(1000)) == [0, 1, 2]
    follower.touch(frozenset((1,)))
    assert follower.take(1000) == []
