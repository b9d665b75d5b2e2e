"""Watches: the present count first, then changes; not too often, and the last one always."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from likering import BatchEmpty, BatchTooLarge, IdEmpty, LikeCount, Mutation
from tests.conformance.subjects import Likes, fresh


def test_the_present_count_comes_first_and_then_changes(likes: Likes) -> None:
    post = fresh("post")
    likes.like("u1", post)
    with closing(likes.watch([post])) as counts:
        first = next(counts)
        assert (first.post_id, first.count, first.version) == (post, 1, 1)
        likes.like("u2", post)
        second = next(counts)
        assert (second.count, second.version) == (2, 2)
        assert second.as_of_time >= first.as_of_time
        likes.unlike("u1", post)
        third = next(counts)
        assert (third.count, third.version) == (1, 3)


def test_a_post_nobody_likes_begins_with_nothing(likes: Likes) -> None:
    post = fresh("post")
    with closing(likes.watch([post])) as counts:
        assert next(counts).version == 0
        likes.like("u1", post)
        assert next(counts).version == 1


def test_a_like_that_was_acknowledged_before_is_in_the_first_count(likes: Likes) -> None:
    """Also when the post is watched already, by somebody whose next update is not due yet."""
    post = fresh("post")
    with closing(likes.watch([post])) as counts:
        next(counts)
        for version in range(1, 6):
            likes.like(f"u{version}", post)
            with closing(likes.watch([post])) as others:
                assert next(others).version == version


def test_many_posts_each_begin_and_each_change(likes: Likes) -> None:
    posts = [fresh("post") for _ in range(40)]
    likes.mutate([Mutation.like("u1", post) for post in posts])
    with closing(likes.watch([*posts, posts[0]])) as counts:
        assert sorted(next(counts).post_id for _ in posts) == sorted(posts)
        likes.mutate([Mutation.like("u2", post) for post in posts])
        changed = [next(counts) for _ in posts]
        assert sorted(count.post_id for count in changed) == sorted(posts)
        assert {(count.count, count.version) for count in changed} == {(2, 2)}


def test_changes_come_ten_times_a_second_at_most_and_the_last_one_comes(likes: Likes) -> None:
    post = fresh("post")
    last = 0
    with closing(likes.watch([post])) as counts:
        assert next(counts).version == 0
        began = time.monotonic()
        enough = threading.Event()

        def change() -> None:
            nonlocal last
            while not enough.is_set():
                likes.mutate([Mutation.like(f"u{last + number}", post) for number in range(5)])
                last += 5

        changing = threading.Thread(target=change)
        changing.start()
        seen: list[LikeCount] = []
        # Changes come until there are enough, so there is always a next one to wait for.
        while not seen or time.monotonic() < began + 1.0:
            seen.append(next(counts))
        enough.set()
        changing.join()
        while seen[-1].version < last:
            seen.append(next(counts))
        seconds = time.monotonic() - began
    versions = [count.version for count in seen]
    assert versions == sorted(set(versions))
    assert [count.count for count in seen] == versions
    assert versions[-1] == last == likes.like_count(post)
    assert len(seen) <= seconds / 0.1 + 2


def test_what_changes_nothing_is_no_news(likes: Likes) -> None:
    post = fresh("post")
    likes.like("u1", post)
    with closing(likes.watch([post])) as counts:
        next(counts)
        likes.like("u1", post)
        likes.unlike("u2", post)
        likes.like("u3", post)
        assert next(counts).version == 2


def test_a_watch_has_at_least_one_post_and_at_most_200(likes: Likes) -> None:
    with pytest.raises(BatchEmpty):
        likes.watch([])
    with pytest.raises(BatchTooLarge):
        likes.watch(["p"] * 201)
    with pytest.raises(IdEmpty) as caught:
        likes.watch(["p", ""])
    assert [violation.field for violation in caught.value.violations] == ["post_ids[1]"]
