"""Lists over pages: order, page sizes, tokens, and what may happen between the pages."""

from __future__ import annotations

import random
import string

import pytest

from likering import IdEmpty, Liker, LikersPage, Mutation, PageSizeNegative, PageTokenInvalid
from tests.conformance.subjects import Likes, fresh


@pytest.fixture
def post(likes: Likes) -> str:
    """A post that u0 to u6 like, u6 last."""
    post = fresh("post")
    for number in range(7):
        likes.like(f"u{number}", post)
    return post


def users(page: LikersPage) -> list[str]:
    return [like.user_id for like in page]


def everybody(likes: Likes, post: str, page_size: int) -> list[str]:
    return [like.user_id for like in likes.likers(post, page_size=page_size)]


def test_a_post_nobody_likes_has_an_empty_page(likes: Likes) -> None:
    post = fresh("post")
    page = likes.list_likers(post)
    assert (page.likes, page.next_page_token) == ((), "")
    assert (page.total.post_id, page.total.count, page.total.version) == (post, 0, 0)


def test_likers_come_newest_first(likes: Likes, post: str) -> None:
    page = likes.list_likers(post)
    assert users(page) == ["u6", "u5", "u4", "u3", "u2", "u1", "u0"]
    assert page.next_page_token == ""
    assert (page.total.count, page.total.version) == (7, 7)
    times = [like.like_time for like in page]
    assert times == sorted(times, reverse=True)
    state = likes.get_like("u3", post)
    assert state.like_time is not None
    assert Liker("u3", state.like_time) in page.likes


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 8])
def test_pages_of_any_size_give_the_same_list(likes: Likes, post: str, page_size: int) -> None:
    assert everybody(likes, post, page_size) == ["u6", "u5", "u4", "u3", "u2", "u1", "u0"]


def test_a_page_that_ends_the_list_says_so(likes: Likes, post: str) -> None:
    assert likes.list_likers(post, page_size=7).next_page_token == ""
    page = likes.list_likers(post, page_size=6)
    assert page.next_page_token
    last = likes.list_likers(post, page_size=6, page_token=page.next_page_token)
    assert (users(last), last.next_page_token) == (["u0"], "")


def test_unlikes_are_left_out_and_likes_again_are_new(likes: Likes, post: str) -> None:
    likes.unlike("u5", post)
    likes.unlike("u2", post)
    likes.like("u2", post)
    assert everybody(likes, post, 2) == ["u2", "u6", "u4", "u3", "u1", "u0"]
    likes.like("u0", post)  # a repetition changes nothing
    assert everybody(likes, post, 2)[-1] == "u0"


def test_what_happens_between_pages_neither_repeats_nor_hides(likes: Likes, post: str) -> None:
    page = likes.list_likers(post, page_size=3)
    assert users(page) == ["u6", "u5", "u4"]
    likes.mutate(
        [
            Mutation.like("new", post),
            Mutation.unlike("u6", post),  # listed already
            Mutation.unlike("u5", post),
            Mutation.like("u5", post),  # listed already, and now the newest
            Mutation.unlike("u2", post),  # to come, and gone
        ]
    )
    rest = likes.list_likers(post, page_token=page.next_page_token)
    assert users(rest) == ["u3", "u1", "u0"]
    assert rest.total.count == 6


def test_a_token_is_good_for_any_page_size_and_again(likes: Likes, post: str) -> None:
    token = likes.list_likers(post, page_size=2).next_page_token
    for page_size, expected in ((1, ["u4"]), (0, ["u4", "u3", "u2", "u1", "u0"]), (2, ["u4", "u3"])):
        assert users(likes.list_likers(post, page_size=page_size, page_token=token)) == expected


def test_a_negative_page_size_is_refused(likes: Likes, post: str) -> None:
    with pytest.raises(PageSizeNegative) as caught:
        likes.list_likers(post, page_size=-1)
    assert [violation.field for violation in caught.value.violations] == ["page_size"]
    with pytest.raises(IdEmpty):
        likes.list_likers("")


def test_more_than_the_largest_page_is_the_largest_page(likes: Likes) -> None:
    post = fresh("post")
    for start in (0, 600):
        likes.mutate([Mutation.like(f"u{number}", post) for number in range(start, start + 600)])
    page = likes.list_likers(post, page_size=5000)
    assert len(page) == 1000
    assert users(page)[0] == "u1199"
    assert len(likes.list_likers(post)) == 50
    assert everybody(likes, post, 1000) == [f"u{number}" for number in reversed(range(1200))]


def test_a_token_of_another_list_is_refused(likes: Likes, post: str) -> None:
    other = fresh("post")
    likes.mutate([Mutation.like(user, other) for user in ("a", "b", "c")])
    token = likes.list_likers(other, page_size=1).next_page_token
    with pytest.raises(PageTokenInvalid) as caught:
        likes.list_likers(post, page_token=token)
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


def test_a_token_that_was_changed_is_refused(likes: Likes, post: str) -> None:
    """Each of its characters replaced, cut off, longer, and noise."""
    token = likes.list_likers(post, page_size=1).next_page_token
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
            likes.list_likers(post, page_token=changed)
