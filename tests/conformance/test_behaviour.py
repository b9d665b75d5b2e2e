"""What likering promises its callers, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from likering import (
    BatchEmpty,
    BatchTooLarge,
    Consistency,
    EnumUnknown,
    Exactness,
    IdEmpty,
    IdNotPrintable,
    IdTooLong,
    IntentInFuture,
    IntentInvalid,
    InvalidArgument,
    Mutation,
    Outcome,
    VersionAhead,
    VersionNegative,
)
from tests.conformance.subjects import Likes, fresh

CHANGED, UNCHANGED, SUPERSEDED = Outcome.CHANGED, Outcome.UNCHANGED, Outcome.SUPERSEDED
SECOND = 1_000_000


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def post() -> str:
    return fresh("post")


def test_the_class_of_the_first_day_prints_what_it_printed(likes: Likes) -> None:
    u1, u2, p1 = fresh("u1"), fresh("u2"), fresh("p1")
    printed: list[object] = [
        likes.like(u1, p1),
        likes.like(u2, p1),
        likes.has_liked(u1, p1),
        likes.like_count(p1),
    ]
    likes.unlike(u1, p1)
    printed += [likes.has_liked(u1, p1), likes.like_count(p1)]
    assert printed == [True, True, True, 2, False, 1]


def test_a_post_nobody_touched_has_no_likes(likes: Likes, post: str) -> None:
    count = likes.get_like_count(post)
    assert (count.post_id, count.count, count.version) == (post, 0, 0)
    assert likes.has_liked("u", post) is False
    assert likes.unlike("u", post) is False
    assert likes.get_like_count(post).version == 0


def test_every_change_raises_the_version_by_one_and_nothing_else_does(likes: Likes, post: str) -> None:
    steps = [
        (Mutation.like("u", post), CHANGED, 1, 1),
        (Mutation.like("u", post), UNCHANGED, 1, 1),
        (Mutation.like("v", post), CHANGED, 2, 2),
        (Mutation.unlike("u", post), CHANGED, 1, 3),
        (Mutation.unlike("u", post), UNCHANGED, 1, 3),
        (Mutation.like("u", post), CHANGED, 2, 4),
    ]
    for mutation, outcome, count, version in steps:
        result = likes.apply(mutation)
        assert result.like_count is not None
        assert (result.outcome, result.like_count.count, result.like_count.version) == (
            outcome,
            count,
            version,
        )
        after = likes.get_like_count(post)
        assert (after.count, after.version) == (count, version)


def test_what_was_meant_earlier_is_superseded(likes: Likes, post: str) -> None:
    moment = now()
    assert likes.apply(Mutation.like("u", post, intent_time=moment)).outcome is CHANGED
    assert likes.apply(Mutation.unlike("u", post, intent_time=moment - 1)).outcome is SUPERSEDED
    assert likes.has_liked("u", post) is True
    assert likes.apply(Mutation.unlike("u", post, intent_time=moment)).outcome is CHANGED


def test_an_unlike_holds_off_a_like_that_arrives_late(likes: Likes, post: str) -> None:
    moment = now()
    assert likes.unlike("u", post, intent_time=moment) is False
    assert likes.like("u", post, intent_time=moment - 1) is False
    assert likes.like_count(post) == 0
    assert likes.like("u", post, intent_time=moment + 1) is True


def test_a_repetition_renews_what_was_meant(likes: Likes, post: str) -> None:
    moment = now()
    likes.like("u", post, intent_time=moment)
    assert likes.apply(Mutation.like("u", post, intent_time=moment + 100)).outcome is UNCHANGED
    assert likes.apply(Mutation.unlike("u", post, intent_time=moment + 50)).outcome is SUPERSEDED


def test_intents_are_exact_to_the_microsecond(likes: Likes, post: str) -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, 123457, UTC)
    likes.like("u", post, intent_time=moment)
    earlier = moment - timedelta(microseconds=1)
    assert likes.apply(Mutation.unlike("u", post, intent_time=earlier)).outcome is SUPERSEDED
    assert likes.apply(Mutation.unlike("u", post, intent_time=moment)).outcome is CHANGED


def test_an_intent_a_little_ahead_is_taken_and_one_far_ahead_refused(likes: Likes, post: str) -> None:
    with pytest.raises(IntentInFuture) as caught:
        likes.like("u", post, intent_time=now() + 120 * SECOND)
    assert [violation.field for violation in caught.value.violations] == ["intent_time"]
    assert likes.like_count(post) == 0
    assert likes.like("u", post, intent_time=now() + 30 * SECOND) is True
    assert likes.unlike("u", post) is False  # meant now, which is earlier
    assert likes.has_liked("u", post) is True


def test_an_intent_before_1970_is_refused(likes: Likes, post: str) -> None:
    for moment in (0, -1, datetime(1969, 7, 20, tzinfo=UTC)):
        with pytest.raises(IntentInvalid):
            likes.like("u", post, intent_time=moment)


def test_the_mutations_of_an_edge_take_effect_in_the_order_of_the_batch(likes: Likes, post: str) -> None:
    moment = now()
    results = likes.mutate(
        [
            Mutation.like("u", post, intent_time=moment),
            Mutation.like("u", post, intent_time=moment),
            Mutation.unlike("u", post, intent_time=moment + 1),
            Mutation.like("u", post, intent_time=moment - 1),
            Mutation.like("u", post, intent_time=moment + 2),
        ]
    )
    assert [result.outcome for result in results] == [CHANGED, UNCHANGED, CHANGED, SUPERSEDED, CHANGED]
    counts = [result.like_count for result in results]
    assert [count and (count.count, count.version) for count in counts] == [
        (1, 1),
        (1, 1),
        (0, 2),
        (0, 2),
        (1, 3),
    ]


def test_single_calls_at_once_take_effect_in_their_order(likes: Likes, post: str) -> None:
    results = likes.apply_at_once(
        [Mutation.like("u", post), Mutation.unlike("u", post), Mutation.like("u", post)] * 20
    )
    assert [result.outcome for result in results] == [CHANGED] * 1 + [CHANGED, CHANGED, UNCHANGED] * 19 + [
        CHANGED,
        CHANGED,
    ]
    assert likes.get_like_count(post).version == 41


def test_a_thousand_mutations_over_many_posts(likes: Likes) -> None:
    posts = [fresh("post") for _ in range(50)]
    results = likes.mutate([Mutation.like(f"u{n // 50}", posts[n % 50]) for n in range(1000)])
    assert all(result.changed for result in results)
    assert [summary.like_count.count for summary in likes.summaries(posts)] == [20] * 50


def test_wrong_items_of_a_batch_spoil_no_other(likes: Likes, post: str) -> None:
    results = likes.mutate(
        [
            Mutation.like("u", post),
            Mutation.like("", post),
            Mutation.like("u" * 129, post),
            Mutation.like("v\0", post),
            Mutation.like("v\ud800", post),
            Mutation("v", post, 0),  # type: ignore[arg-type]
            Mutation.like("v", post, intent_time=now() + 3600 * SECOND),
            Mutation.like("v", post, intent_time=-5),
            Mutation.like("v", ""),
            Mutation.like("v", post),
        ]
    )
    errors = [result.error for result in results]
    assert [type(error) for error in errors] == [
        type(None),
        IdEmpty,
        IdTooLong,
        IdNotPrintable,
        IdNotPrintable,
        EnumUnknown,
        IntentInFuture,
        IntentInvalid,
        IdEmpty,
        type(None),
    ]
    fields = [error.violations[0].field for error in errors if error is not None]
    assert fields == [
        "mutations[1].user_id",
        "mutations[2].user_id",
        "mutations[3].user_id",
        "mutations[4].user_id",
        "mutations[5].action",
        "mutations[6].intent_time",
        "mutations[7].intent_time",
        "mutations[8].post_id",
    ]
    assert (results[0].changed, results[9].changed) == (True, True)
    assert likes.like_count(post) == 2


@pytest.mark.parametrize(
    "user",
    [
        "u",
        "x" * 128,
        "ü" * 64,
        "💙" * 32,
        " ",
        "a b",
        "\n",
        "'; DROP TABLE edges; --",
        "%s",
        "\u202e",
        "é",
        "e\u0301",
    ],
)
def test_any_text_of_1_to_128_bytes_is_an_id(likes: Likes, user: str) -> None:
    post = (fresh("post") + user)[:96] if user.isascii() else fresh("post") + user[:16]
    assert likes.like(user, post) is True
    assert likes.has_liked(user, post) is True
    assert likes.filter_likers(post, [user]) == [user]
    assert likes.unlike(user, post) is True


def test_ids_that_look_alike_are_different(likes: Likes, post: str) -> None:
    alike = ["u", "U", " u", "u ", "é", "e\u0301"]
    assert [likes.like(user, post) for user in alike] == [True] * len(alike)
    assert likes.like_count(post) == len(alike)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("", IdEmpty),
        ("x" * 129, IdTooLong),
        ("ü" * 65, IdTooLong),
        ("a\0b", IdNotPrintable),
        ("\udfff", IdNotPrintable),
    ],
    ids=["empty", "129 bytes", "130 bytes", "NUL", "surrogate"],
)
def test_a_bad_id_is_refused_by_every_call(
    likes: Likes, post: str, bad: str, error: type[InvalidArgument]
) -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("user_id", lambda: likes.like(bad, post)),
        ("post_id", lambda: likes.like("u", bad)),
        ("user_id", lambda: likes.unlike(bad, post)),
        ("post_id", lambda: likes.unlike("u", bad)),
        ("user_id", lambda: likes.has_liked(bad, post)),
        ("post_id", lambda: likes.has_liked("u", bad)),
        ("user_id", lambda: likes.get_like(bad, post)),
        ("post_id", lambda: likes.like_count(bad)),
        ("post_id", lambda: likes.get_like_count(bad, min_version=1)),
        ("post_ids[1]", lambda: likes.summaries([post, bad])),
        ("post_id", lambda: likes.filter_likers(bad, ["u"])),
        ("user_ids[2]", lambda: likes.filter_likers(post, ["u", "v", bad])),
    ]
    if bad:  # an empty viewer is nobody
        calls.append(("viewer_user_id", lambda: likes.summaries([post], bad)))
    for field, call in calls:
        with pytest.raises(error) as caught:
            call()
        assert [violation.field for violation in caught.value.violations] == [field]
    assert likes.get_like_count(post).version == 0


def test_lists_have_a_size(likes: Likes, post: str) -> None:
    calls: list[tuple[Callable[[], object], type[InvalidArgument]]] = [
        (lambda: likes.mutate([]), BatchEmpty),
        (lambda: likes.mutate([Mutation.like("u", post)] * 1001), BatchTooLarge),
        (lambda: likes.summaries([]), BatchEmpty),
        (lambda: likes.summaries([post] * 201), BatchTooLarge),
        (lambda: likes.filter_likers(post, []), BatchEmpty),
        (lambda: likes.filter_likers(post, ["u"] * 1001), BatchTooLarge),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()
    assert likes.get_like_count(post).version == 0


def test_consistencies_and_versions_are_checked(likes: Likes, post: str) -> None:
    unknown: Consistency = 7  # type: ignore[assignment]
    for call in (
        lambda: likes.like_count(post, consistency=unknown),
        lambda: likes.has_liked("u", post, consistency=unknown),
        lambda: likes.summaries([post], consistency=unknown),
        lambda: likes.filter_likers(post, ["u"], consistency=unknown),
    ):
        with pytest.raises(EnumUnknown):
            call()
    for call in (
        lambda: likes.like_count(post, min_version=-1),
        lambda: likes.has_liked("u", post, min_version=-1),
        lambda: likes.filter_likers(post, ["u"], min_version=-1),
    ):
        with pytest.raises(VersionNegative):
            call()


@pytest.mark.parametrize("consistency", list(Consistency))
def test_reads_see_every_write_that_was_answered(likes: Likes, post: str, consistency: Consistency) -> None:
    for number in range(5):
        likes.like(f"u{number}", post)
        count = likes.get_like_count(post, consistency=consistency)
        assert (count.count, count.version) == (number + 1, number + 1)
        assert likes.has_liked(f"u{number}", post, consistency=consistency) is True
        assert likes.has_liked(f"u{number + 1}", post, consistency=consistency) is False
    assert likes.get_like_count(post, consistency=Consistency.STRONG).exactness is Exactness.EXACT


def test_an_answer_says_of_when_it_is(likes: Likes, post: str) -> None:
    before = datetime.now(UTC)
    written = likes.apply(Mutation.like("u", post)).like_count
    read = likes.get_like_count(post, consistency=Consistency.STRONG)
    after = datetime.now(UTC)
    assert written is not None
    assert written.exactness is Exactness.EXACT
    assert before - timedelta(seconds=1) <= written.as_of_time <= after + timedelta(seconds=1)
    assert before - timedelta(seconds=1) <= read.as_of_time <= after + timedelta(seconds=1)


def test_a_like_has_a_time_until_it_is_taken_back(likes: Likes, post: str) -> None:
    before = datetime.now(UTC)
    likes.like("u", post)
    state = likes.get_like("u", post)
    assert state.liked
    assert state.like_time is not None
    assert before - timedelta(seconds=1) <= state.like_time <= datetime.now(UTC) + timedelta(seconds=1)
    likes.like("u", post)
    assert likes.get_like("u", post).like_time == state.like_time
    likes.unlike("u", post)
    assert likes.get_like("u", post).like_time is None
    assert likes.get_like("u", post).liked is False


def test_who_likes_a_post_says_as_of_when(likes: Likes, post: str) -> None:
    """While the owner answers that is exact, and of the moment, whatever the caller would have taken."""
    likes.like("u", post)
    for consistency in Consistency:
        before = datetime.now(UTC)
        state = likes.get_like("u", post, consistency=consistency)
        (summary,) = likes.summaries([post], "u", consistency=consistency)
        assert summary.viewer_as_of_time is not None
        for exactness, as_of_time in (
            (state.exactness, state.as_of_time),
            (summary.viewer_exactness, summary.viewer_as_of_time),
        ):
            assert exactness is Exactness.EXACT
            assert before - timedelta(seconds=1) <= as_of_time <= datetime.now(UTC) + timedelta(seconds=1)
        (unseen,) = likes.summaries([post], consistency=consistency)
        assert (unseen.viewer_exactness, unseen.viewer_as_of_time) == (None, None)


def test_a_version_may_be_asked_for(likes: Likes, post: str) -> None:
    likes.like("u", post)
    likes.like("v", post)
    for version in (1, 2):
        assert likes.get_like_count(post, min_version=version).version == 2
        assert likes.has_liked("v", post, min_version=version) is True
        assert likes.filter_likers(post, ["u", "x", "v"], min_version=version) == ["u", "v"]
    for version in (3, 2**63 - 1, 2**70):
        for call in (
            lambda: likes.like_count(post, min_version=version),  # noqa: B023 - called at once
            lambda: likes.has_liked("u", post, min_version=version),  # noqa: B023
            lambda: likes.filter_likers(post, ["u"], min_version=version),  # noqa: B023
        ):
            with pytest.raises(VersionAhead):
                call()
    with pytest.raises(VersionAhead):
        likes.like_count(fresh("untouched"), min_version=1)


def test_a_page_in_one_call(likes: Likes) -> None:
    posts = [fresh("post") for _ in range(200)]
    likes.mutate([Mutation.like("viewer", post) for post in posts[::2]])
    likes.mutate([Mutation.like("other", post) for post in posts[::3]])
    page = likes.summaries(posts, "viewer")
    assert [summary.like_count.post_id for summary in page] == posts
    assert [summary.viewer_has_liked for summary in page] == [n % 2 == 0 for n in range(200)]
    assert [summary.like_count.count for summary in page] == [(n % 2 == 0) + (n % 3 == 0) for n in range(200)]
    assert page.unreachable == ()
    assert not any(summary.viewer_has_liked for summary in likes.summaries(posts))
    assert likes.summaries(posts, "viewer", partial=True).unreachable == ()


def test_a_page_may_name_a_post_twice(likes: Likes, post: str) -> None:
    likes.like("u", post)
    other = fresh("post")
    page = likes.summaries([post, other, post], "u")
    assert [(summary.like_count.post_id, summary.viewer_has_liked) for summary in page] == [
        (post, True),
        (other, False),
        (post, True),
    ]


def test_who_of_them_likes_it(likes: Likes, post: str) -> None:
    friends = [f"friend{number}" for number in range(1000)]
    likes.mutate([Mutation.like(friend, post) for friend in friends[::3]])
    assert likes.filter_likers(post, friends) == friends[::3]
    assert likes.filter_likers(post, ["stranger"]) == []
    assert likes.filter_likers(post, ["friend3", "stranger", "friend0"]) == ["friend3", "friend0"]
