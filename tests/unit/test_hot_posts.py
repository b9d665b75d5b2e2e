"""Hot posts are found in bounded memory, over the last minute, with counts that say how wrong they may be."""

from __future__ import annotations

import random
from collections import Counter

from shard_node.hot_posts import KEPT, ROOM, SLICE, WINDOW, HotPosts
from tests.parts.clock import Clock


def test_few_posts_are_counted_exactly() -> None:
    hot = HotPosts(Clock())
    hot.add(["a", "b", "a"])
    hot.add(["c", "a"])
    found = hot.hottest(2)
    assert found.posts == [("a", 3), ("b", 1)]
    assert found.missed == 0


def test_the_minute_before_is_forgotten() -> None:
    clock = Clock()
    hot = HotPosts(clock)
    hot.add(["old"] * 100)
    clock.now += WINDOW - SLICE
    hot.add(["new"])
    assert hot.hottest(5).posts == [("old", 100), ("new", 1)]
    assert hot.hottest(5).seconds == WINDOW - SLICE
    clock.now += SLICE
    found = hot.hottest(5)
    assert found.posts == [("new", 1)]
    assert found.seconds < WINDOW
    clock.now += 10 * WINDOW
    assert hot.hottest(5).posts == []
    assert len(hot) == 0


def test_a_hot_post_is_found_among_very_many_and_memory_is_bounded() -> None:
    """Each count is too low by at most what is said."""
    clock = Clock()
    hot = HotPosts(clock)
    chance = random.Random(5)
    exact: Counter[str] = Counter()
    most = 0
    for batch in range(200):
        posts = [f"cold-{chance.randrange(10**9)}" for _ in range(500)]
        posts += ["hot"] * 5 + ["warm"] * 3
        exact.update(posts)
        hot.add(posts)
        most = max(most, len(hot))
        if batch % 20 == 19:
            clock.now += SLICE
    slices = WINDOW / SLICE
    assert most <= ROOM + 508 + slices * KEPT
    found = hot.hottest(2)
    assert [post for post, _ in found.posts] == ["hot", "warm"]
    assert found.missed > 0
    for post, count in found.posts:
        assert exact[post] - found.missed <= count <= exact[post]
