"""The change feed: what is told, in which order, and how it goes on from cursors."""

from __future__ import annotations

import random
import string
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from likering import Action, CursorInvalid, EventBatch, LikeEvent, Mutation, PageSizeNegative, SlotUnknown
from likering.ring.hashing import slot_of
from tests.conformance.subjects import Likes, fresh

pytestmark = pytest.mark.timeout(60)


class Feed:
    """A consumer of events of some posts: others' tests make likes, too."""

    def __init__(self, likes: Likes, posts: Collection[str], **options: Any) -> None:
        self._posts = posts
        self.batches: Iterator[EventBatch] = likes.events(**options)
        first = next(self.batches)
        assert first.events == ()
        self.cursor, self.slot_count = first.cursor, first.slot_count

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc: object) -> None:
        with closing(cast(Any, self.batches)):
            pass

    def events(self, count: int) -> list[LikeEvent]:
        """The next events of the posts, at least so many."""
        found: list[LikeEvent] = []
        while len(found) < count:
            batch = next(self.batches)
            self.cursor = batch.cursor
            found += [event for event in batch if event.post_id in self._posts]
        return found


def told(events: list[LikeEvent]) -> list[tuple[str, bool, bool]]:
    return [(event.user_id, event.liked, event.first_like) for event in events]


def now(likes: Likes) -> str:
    """A cursor of the present."""
    with Feed(likes, (), from_now=True) as feed:
        return feed.cursor


@pytest.fixture
def post() -> str:
    return fresh("post")


def test_changes_come_as_they_are_made(likes: Likes, post: str) -> None:
    with Feed(likes, [post], from_now=True) as feed:
        likes.like("u1", post)
        likes.like("u2", post)
        events = feed.events(2)
        assert told(events) == [("u1", True, True), ("u2", True, True)]
        state = likes.get_like("u2", post)
        assert events[1].like_time == state.like_time
        likes.like("u2", post)  # a repetition is no change
        likes.unlike("u1", post)
        (unlike,) = feed.events(1)
        assert told([unlike]) == [("u1", False, False)]
        assert (unlike.like_count.post_id, unlike.like_count.count, unlike.like_count.version) == (post, 1, 3)
        likes.like("u1", post)
        (again,) = feed.events(1)
        assert told([again]) == [("u1", True, False)]
        assert again.like_time > unlike.like_time


def test_from_the_beginning_each_edge_has_its_last_state(likes: Likes, post: str) -> None:
    likes.mutate([Mutation.like(f"u{n}", post) for n in range(5)])
    likes.unlike("u1", post)
    likes.unlike("u2", post)
    likes.like("u2", post)
    slot = slot_of(post, 64)
    with Feed(likes, [post], slots=[slot]) as feed:
        assert feed.slot_count == 64
        events = feed.events(5)
        while {event.user_id for event in events} != {f"u{n}" for n in range(5)}:
            events += feed.events(1)
    last = {event.user_id: event.liked for event in events}
    assert last == {"u0": True, "u1": False, "u2": True, "u3": True, "u4": True}
    firsts = [event.user_id for event in events if event.first_like]
    assert sorted(firsts) == [f"u{n}" for n in range(5)]


@pytest.mark.parametrize("max_batch", [1, 3, 1000])
def test_from_cursor_to_cursor_nothing_is_missed_and_no_first_like_comes_twice(
    likes: Likes, max_batch: int
) -> None:
    posts = [fresh("post") for _ in range(4)]
    users = [f"u{n}" for n in range(6)]
    cursor = now(likes)
    firsts: list[tuple[str, str]] = []
    last: dict[tuple[str, str], bool] = {}
    versions: dict[str, int] = {}
    choose = random.Random(max_batch)
    wanted: dict[tuple[str, str], bool] = {}
    for step in range(8):
        mutations = []
        for _ in range(10):
            edge = choose.choice(posts), choose.choice(users)
            wanted[edge] = choose.random() < 0.6
            mutations.append(Mutation(edge[1], edge[0], Action.LIKE if wanted[edge] else Action.UNLIKE))
        for mutation in mutations:
            likes.apply(mutation)
        with Feed(likes, posts, cursor=cursor, max_batch=max_batch) as feed:
            # The last round reads all there is; those before stop in between.
            while any(liked is not last.get(edge, False) for edge, liked in wanted.items()):
                for event in feed.events(1):
                    edge = event.post_id, event.user_id
                    if event.first_like:
                        firsts.append(edge)
                    last[edge] = event.liked
                    assert event.like_count.version >= versions.get(event.post_id, 0)
                    versions[event.post_id] = event.like_count.version
                cursor = feed.cursor
                if step < 7 and choose.random() < 0.5:
                    break
    assert len(firsts) == len(set(firsts))
    assert {edge for edge, liked in wanted.items() if liked} <= set(firsts)


def test_a_cursor_gives_the_same_again(likes: Likes, post: str) -> None:
    cursor = now(likes)
    likes.like("u1", post)
    likes.like("u2", post)
    for _ in range(2):
        with Feed(likes, [post], cursor=cursor) as feed:
            assert told(feed.events(2)) == [("u1", True, True), ("u2", True, True)]


def test_a_batch_has_no_more_events_than_wanted(likes: Likes, post: str) -> None:
    cursor = now(likes)
    likes.mutate([Mutation.like(f"u{n:02}", post) for n in range(10)])
    with Feed(likes, [post], cursor=cursor, max_batch=3) as feed:
        users: list[str] = []
        while len(users) < 10:
            events = feed.events(1)
            assert len(events) <= 3
            users += [event.user_id for event in events]
    assert users == [f"u{n:02}" for n in range(10)]


def test_slots_divide_the_events(likes: Likes) -> None:
    posts = [fresh("post") for _ in range(30)]
    cursor = now(likes)
    for post in posts:
        likes.like("u", post)
    for part in range(2):
        slots = range(part, 64, 2)
        mine = [post for post in posts if slot_of(post, 64) in slots]
        with Feed(likes, posts, cursor=cursor, slots=slots) as feed:
            assert sorted(event.post_id for event in feed.events(len(mine))) == sorted(mine)
            half = feed.cursor
        # Its cursor covers these slots only, all of them unless some are named.
        likes.like(f"v{part}", mine[0])
        with Feed(likes, posts, cursor=half, slots=[slot_of(mine[0], 64)]) as feed:
            assert told(feed.events(1)) == [(f"v{part}", True, True)]
        with pytest.raises(SlotUnknown):
            next(likes.events(cursor=half, slots=[1 - part]))


@pytest.mark.parametrize(
    ("slots", "fields"), [([64], ["slots[0]"]), ([3, -1], ["slots[1]"]), ([3, 4, 3], ["slots[2]"])]
)
def test_wrong_slots_are_refused(likes: Likes, slots: list[int], fields: list[str]) -> None:
    with pytest.raises(SlotUnknown) as caught:
        next(likes.events(slots=slots))
    assert [violation.field for violation in caught.value.violations] == fields


def test_a_negative_batch_is_refused(likes: Likes) -> None:
    with pytest.raises(PageSizeNegative) as caught:
        next(likes.events(max_batch=-1))
    assert [violation.field for violation in caught.value.violations] == ["max_batch"]


def test_a_cursor_that_was_changed_or_is_none_is_refused(likes: Likes, post: str) -> None:
    likes.like("u1", post)
    likes.like("u2", post)
    page_token = likes.list_likers(post, page_size=1).next_page_token
    cursor = now(likes)
    choose = random.Random(5)
    wrong = [page_token, cursor[:-1], cursor + "A", cursor + "=", " " + cursor, cursor * 2, "ü", "x" * 10_000]
    for place in choose.sample(range(len(cursor)), 10):
        other = choose.choice([c for c in string.ascii_letters + "-_" if c != cursor[place]])
        wrong.append(cursor[:place] + other + cursor[place + 1 :])
    for changed in wrong:
        with pytest.raises(CursorInvalid) as caught:
            next(likes.events(cursor=changed))
        assert [violation.field for violation in caught.value.violations] == ["cursor"]
