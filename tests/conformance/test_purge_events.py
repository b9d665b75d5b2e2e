"""What the change feed tells of purges: to those who did not read meanwhile, too, and in the order of each slot."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Any, cast

import pytest

from likering import EventBatch, EventKind, LikeEvent, Mutation
from likering.ring.hashing import slot_of
from tests.conformance.conftest import Operator
from tests.conformance.subjects import Likes, fresh

pytestmark = pytest.mark.timeout(60)


class Consumer:
    """Knows likes of some posts by the events, and keeps a cursor."""

    def __init__(self, likes: Likes, posts: list[str]) -> None:
        self._likes = likes
        self._slots = sorted({slot_of(post, 64) for post in posts})
        self._posts = posts
        self.cursor = ""
        self.known: dict[tuple[str, str], int] = {}
        self.purges: list[LikeEvent] = []

    def read(self, until: set[tuple[str, str]], purged: Collection[tuple[str, int]] = ()) -> None:
        """Goes on until it knows these likes (post and user) and no others of these posts, and has come by these
        purges (post or user, and slot)."""
        batches = self._likes.events(
            **({"cursor": self.cursor} if self.cursor else {"slots": self._slots}), max_batch=3
        )
        with closing(cast(Any, batches)):
            while {edge for edge in self.known if edge[0] in self._posts} != until or not self._told(purged):
                self._take(next(batches))

    def _told(self, purged: Collection[tuple[str, int]]) -> bool:
        return {(event.post_id or event.user_id, event.slot) for event in self.purges}.issuperset(purged)

    def _take(self, batch: EventBatch) -> None:
        for event in batch:
            match event.kind:
                case EventKind.EDGE:
                    assert event.slot == slot_of(event.post_id, 64)
                    self.known.pop((event.post_id, event.user_id), None)
                    if event.liked:
                        self.known[event.post_id, event.user_id] = event.slot
                    continue
                case EventKind.POST_PURGED:
                    void = [edge for edge in self.known if edge[0] == event.post_id]
                case EventKind.USER_PURGED:
                    void = [
                        edge
                        for edge, slot in self.known.items()
                        if (edge[1], slot) == (event.user_id, event.slot)
                    ]
            assert not event.liked
            assert not event.first_like
            self.purges.append(event)
            for edge in void:
                del self.known[edge]
        self.cursor = batch.cursor


def test_a_purge_of_a_post_is_told_to_who_was_away(likes: Likes, operator: Operator) -> None:
    post = fresh("post")
    users = [fresh("user") for _ in range(5)]
    consumer = Consumer(likes, [post])
    likes.mutate([Mutation.like(user, post) for user in users])
    consumer.read({(post, user) for user in users})
    operator.purge_post(post)
    likes.like(users[3], post)
    consumer.read({(post, users[3])})
    purges = [event for event in consumer.purges if event.post_id == post]
    assert [(event.user_id, event.slot, event.like_count.count) for event in purges] == [
        ("", slot_of(post, 64), 1)
    ]
    operator.purge_post(post)
    consumer.read(set())
    last = consumer.purges[-1]
    assert (last.kind, last.post_id, last.like_count.count) == (EventKind.POST_PURGED, post, 0)
    assert last.like_time > purges[0].like_time
    # 5 likes and their ends, and one like and its end.
    assert last.like_count.version == 12


def test_a_purge_of_a_user_is_told_to_who_was_away_by_each_slot(likes: Likes, operator: Operator) -> None:
    user, other = fresh("user"), fresh("other")
    posts = [fresh("post") for _ in range(6)]
    consumer = Consumer(likes, posts)
    likes.mutate([Mutation.like(who, post) for post in posts for who in (user, other)])
    consumer.read({(post, who) for post in posts for who in (user, other)})
    operator.purge_user(user)
    likes.like(user, posts[2])
    likes.unlike(other, posts[3])
    left = {(post, other) for post in posts if post != posts[3]} | {(posts[2], user)}
    slots = {slot_of(post, 64) for post in posts}
    consumer.read(left, {(user, slot) for slot in slots})
    purges = [event for event in consumer.purges if event.user_id == user]
    assert {event.kind for event in purges} == {EventKind.USER_PURGED}
    assert {(event.post_id, event.like_count.post_id) for event in purges} == {("", "")}
    assert sorted(event.slot for event in purges) == sorted(slots)
    # Who begins only now gets there, too.
    late = Consumer(likes, posts)
    late.read(left)
    assert late.cursor


def test_who_reads_some_slots_is_told_of_users_there(likes: Likes, operator: Operator) -> None:
    user = fresh("user")
    here = fresh("post")
    elsewhere = next(post for n in range(100) if slot_of(post := f"{here}-{n}", 64) != slot_of(here, 64))
    consumer = Consumer(likes, [here])
    likes.mutate([Mutation.like(user, post) for post in (here, elsewhere)])
    consumer.read({(here, user)})
    operator.purge_user(user)
    consumer.read(set())
    assert [event.slot for event in consumer.purges if event.user_id == user] == [slot_of(here, 64)]
