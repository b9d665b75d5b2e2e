"""What a user likes, over pages: order, tokens, and that it gets there. On a cluster it takes a moment."""

from __future__ import annotations

import random
import string
import time

import pytest

from likering import IdEmpty, LikedPost, LikedPostsPage, Mutation, PageSizeNegative, PageTokenInvalid
from tests.conformance.subjects import Likes, fresh

SECONDS = 20.0
"""After which a like that is not listed is lost."""


def posts(page: LikedPostsPage) -> list[str]:
    return [like.post_id for like in page]


def listed(likes: Likes, user: str, expected: list[str], page_size: int = 1000) -> None:
    """Waits until this is what the user likes, newest first."""
    ends = time.monotonic() + SECONDS
    found: list[str] = []
    while time.monotonic() < ends:
        found = [like.post_id for like in likes.liked_posts(user, page_size=page_size)]
        if found == expected:
            return
        time.sleep(0.02)
    raise AssertionError(f"{found} instead of {expected}")


@pytest.fixture
def user(likes: Likes) -> str:
    """Likes p0 to p6 of its own, p6 last; all are listed."""
    user = fresh("user")
    for number in range(7):
        likes.like(user, f"{user}-p{number}")
    listed(likes, user, of(user, 6, 5, 4, 3, 2, 1, 0))
    return user


def of(user: str, *numbers: int) -> list[str]:
    return [f"{user}-p{number}" for number in numbers]


def test_a_user_who_likes_nothing_has_an_empty_page(likes: Likes) -> None:
    page = likes.list_liked_posts(fresh("user"))
    assert (page.likes, page.next_page_token) == ((), "")


def test_liked_posts_come_newest_first_with_their_times(likes: Likes, user: str) -> None:
    page = likes.list_liked_posts(user)
    assert page.next_page_token == ""
    times = [like.like_time for like in page]
    assert times == sorted(times, reverse=True)
    state = likes.get_like(user, f"{user}-p3")
    assert state.like_time is not None
    assert LikedPost(f"{user}-p3", state.like_time) in page.likes


def test_pages_of_any_size_give_the_same_list(likes: Likes, user: str) -> None:
    for page_size in (1, 3, 6, 7, 8):
        assert [like.post_id for like in likes.liked_posts(user, page_size=page_size)] == of(
            user, 6, 5, 4, 3, 2, 1, 0
        )
    assert likes.list_liked_posts(user, page_size=7).next_page_token == ""


def test_unlikes_are_left_out_and_likes_again_are_new(likes: Likes, user: str) -> None:
    likes.unlike(user, f"{user}-p5")
    likes.unlike(user, f"{user}-p2")
    likes.like(user, f"{user}-p2")
    likes.like(user, f"{user}-p0")  # a repetition changes nothing
    listed(likes, user, of(user, 2, 6, 4, 3, 1, 0), page_size=2)


def test_a_page_goes_on_below_the_one_before(likes: Likes, user: str) -> None:
    page = likes.list_liked_posts(user, page_size=3)
    assert posts(page) == of(user, 6, 5, 4)
    likes.mutate([Mutation.like(user, f"{user}-new"), Mutation.unlike(user, f"{user}-p2")])
    listed(likes, user, [f"{user}-new", *of(user, 6, 5, 4, 3, 1, 0)])
    assert posts(likes.list_liked_posts(user, page_token=page.next_page_token)) == of(user, 3, 1, 0)


def test_wrong_arguments_are_refused(likes: Likes) -> None:
    with pytest.raises(PageSizeNegative):
        likes.list_liked_posts("u", page_size=-1)
    with pytest.raises(IdEmpty):
        likes.list_liked_posts("")


def test_a_token_that_was_changed_or_is_of_another_list_is_refused(likes: Likes, user: str) -> None:
    """Of another user, of another call, and each of its characters replaced, cut off, longer, and noise."""
    token = likes.list_liked_posts(user, page_size=1).next_page_token
    post = fresh("post")
    likes.mutate([Mutation.like(name, post) for name in ("a", "b")])
    others = likes.list_likers(post, page_size=1).next_page_token
    for wrong_user, wrong_token in ((fresh("user"), token), (user, others), (post, others)):
        with pytest.raises(PageTokenInvalid):
            likes.list_liked_posts(wrong_user, page_token=wrong_token)
    with pytest.raises(PageTokenInvalid):
        likes.list_likers(user, page_token=token)
    choose = random.Random(7)
    wrong = [
        token[:place]
        + choose.choice([c for c in string.ascii_letters + "-_" if c != old])
        + token[place + 1 :]
        for place, old in enumerate(token)
    ]
    wrong += [token[:-1], token + "A", token + "=", token * 2, " " + token, "ü", "\0", "x" * 10_000]
    for changed in wrong:
        with pytest.raises(PageTokenInvalid):
            likes.list_liked_posts(user, page_token=changed)
