"""LikeService as callers see it: the router's server over gRPC, in front of shards without databases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from likering.errors import LikeringError, VersionAhead
from likering.serving.status import from_status
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from tests.parts.fake_router import refusal, router
from tests.parts.fake_shard import failing, fake_shards, post_in
from tests.parts.stubs import like_stub

LIKE, UNLIKE = api.LikeMutation.ACTION_LIKE, api.LikeMutation.ACTION_UNLIKE
CHANGED = api.MUTATION_OUTCOME_CHANGED
LONG, NUL, SURROGATE = "x" * 129, "a\0b", b"\xed\xa0\x80"


def status_error(status: status_pb2.Status) -> LikeringError:
    error = from_status(status)
    assert error is not None
    return error


async def test_like_unlike_and_like_again() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        before = time.time_ns() // 1000
        first = await stub.Like(api.LikeRequest(user_id="u1", post_id="p1"))
        assert first.outcome == CHANGED
        like_count = first.like_count
        assert (like_count.post_id, like_count.count, like_count.version) == ("p1", 1, 1)
        assert like_count.exactness == api.EXACTNESS_EXACT
        assert before <= like_count.as_of_time.ToMicroseconds() <= time.time_ns() // 1000
        again = await stub.Like(api.LikeRequest(user_id="u1", post_id="p1"))
        assert again.outcome == api.MUTATION_OUTCOME_UNCHANGED
        undone = await stub.Unlike(api.UnlikeRequest(user_id="u1", post_id="p1"))
        assert (undone.outcome, undone.like_count.count, undone.like_count.version) == (CHANGED, 0, 2)


async def test_has_liked_says_since_when() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        await stub.Like(api.LikeRequest(user_id="u1", post_id="p1"))
        liked = await stub.HasLiked(api.HasLikedRequest(user_id="u1", post_id="p1"))
        assert liked.liked
        assert liked.like_time.ToMicroseconds() == a.liked["p1"]["u1"]
        other = await stub.HasLiked(api.HasLikedRequest(user_id="u2", post_id="p1"))
        assert not other.liked
        assert not other.HasField("like_time")


@pytest.mark.parametrize(
    ("consistency", "mode"),
    [
        (api.CONSISTENCY_UNSPECIFIED, shard.READ_MODE_CACHED),
        (api.CONSISTENCY_CACHED, shard.READ_MODE_CACHED),
        (api.CONSISTENCY_STRONG, shard.READ_MODE_STRONG),
        (api.CONSISTENCY_STALE_OK, shard.READ_MODE_STALE_OK),
    ],
)
async def test_consistency_and_min_version_reach_the_shard(
    consistency: api.Consistency.ValueType, mode: shard.ReadMode.ValueType
) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        await stub.GetLikeCount(api.GetLikeCountRequest(post_id="p", consistency=consistency, min_version=7))
        await stub.HasLiked(
            api.HasLikedRequest(user_id="u", post_id="p", consistency=consistency, min_version=8)
        )
        await stub.FilterLikers(
            api.FilterLikersRequest(user_ids="ab", post_id="p", consistency=consistency, min_version=9)
        )
        await stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=["p"], consistency=consistency))
        assert [batch.read_mode for batch in a.batches] == [mode] * 4
        assert [list(batch.min_versions) for batch in a.batches] == [[7], [8], [9, 9], []]


@pytest.mark.parametrize(
    ("source", "exactness"),
    [
        (shard.COUNT_SOURCE_UNSPECIFIED, api.EXACTNESS_EXACT),
        (shard.COUNT_SOURCE_DATABASE, api.EXACTNESS_EXACT),
        (shard.COUNT_SOURCE_CACHE, api.EXACTNESS_CACHED),
        (shard.COUNT_SOURCE_STALE, api.EXACTNESS_STALE),
    ],
)
async def test_a_count_says_where_it_comes_from(
    source: shard.CountSource.ValueType, exactness: api.Exactness.ValueType
) -> None:
    def from_there(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        response.sources[:] = [source]

    async with fake_shards("a") as (a,), router(a) as channel:
        a.answering.append(from_there)
        response = await like_stub(channel).GetLikeCount(api.GetLikeCountRequest(post_id="p"))
        assert response.like_count.exactness == exactness


@pytest.mark.parametrize(
    ("source", "exactness"),
    [
        (shard.COUNT_SOURCE_UNSPECIFIED, api.EXACTNESS_EXACT),
        (shard.COUNT_SOURCE_DATABASE, api.EXACTNESS_EXACT),
        (shard.COUNT_SOURCE_STALE, api.EXACTNESS_STALE),
    ],
)
async def test_who_likes_says_where_that_comes_from(
    source: shard.CountSource.ValueType, exactness: api.Exactness.ValueType
) -> None:
    """And as of when. Of a summary apart from its count, which may come from elsewhere."""

    def from_there(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        response.as_of_time = 1_700_000_000_123_456
        for position, kind in enumerate(request.kinds):
            if kind == shard.OP_KIND_HAS_LIKED:
                response.sources[position] = source

    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        a.answering.extend([from_there] * 4)
        liked = await stub.HasLiked(api.HasLikedRequest(user_id="u", post_id="p"))
        filtered = await stub.FilterLikers(api.FilterLikersRequest(user_ids=["u", "v"], post_id="p"))
        page = api.GetLikeSummariesRequest(post_ids=["p"], viewer_user_id="u")
        (summary,) = (await stub.GetLikeSummaries(page)).summaries
        (unseen,) = (await stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=["p"]))).summaries
    for answer in (liked, filtered):
        assert answer.exactness == exactness
        assert answer.as_of_time.ToMicroseconds() == 1_700_000_000_123_456
    assert summary.viewer_exactness == exactness
    assert summary.viewer_as_of_time.ToMicroseconds() == 1_700_000_000_123_456
    assert summary.like_count.exactness == api.EXACTNESS_CACHED
    assert not unseen.viewer_exactness
    assert not unseen.HasField("viewer_as_of_time")


async def test_what_is_partly_stale_is_stale() -> None:
    def mixed(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        response.sources[:] = [shard.COUNT_SOURCE_UNSPECIFIED, shard.COUNT_SOURCE_STALE]

    async with fake_shards("a") as (a,), router(a) as channel:
        a.answering.append(mixed)
        request = api.FilterLikersRequest(user_ids=["u", "v"], post_id="p")
        assert (await like_stub(channel).FilterLikers(request)).exactness == api.EXACTNESS_STALE


async def test_an_intent_is_handed_down_in_microseconds() -> None:
    intent = Timestamp(seconds=1_700_000_000, nanos=123_456_789)
    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        await stub.Like(api.LikeRequest(user_id="u", post_id="p", intent_time=intent))
        await stub.MutateLikes(
            api.MutateLikesRequest(
                mutations=[
                    api.LikeMutation(user_id="u", post_id="p", action=UNLIKE, intent_time=intent),
                    api.LikeMutation(user_id="v", post_id="p", action=LIKE),
                ]
            )
        )
        assert [list(batch.intent_times) for batch in a.batches] == [
            [1_700_000_000_123_456],
            [1_700_000_000_123_456, 0],
        ]


async def test_mutations_are_answered_in_the_order_of_the_request() -> None:
    posts = [post_in(slot) for slot in (0, 1, 0, 3, 0)]
    actions = [LIKE, LIKE, UNLIKE, UNLIKE, LIKE]
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        response = await like_stub(channel).MutateLikes(
            api.MutateLikesRequest(
                mutations=[
                    api.LikeMutation(user_id="u", post_id=post, action=action)
                    for post, action in zip(posts, actions, strict=True)
                ]
            )
        )
    assert [result.like_count.post_id for result in response.results] == posts
    assert [
        (result.outcome, result.like_count.count, result.like_count.version) for result in response.results
    ] == [
        (CHANGED, 1, 1),
        (CHANGED, 1, 1),
        (CHANGED, 0, 2),
        (api.MUTATION_OUTCOME_UNCHANGED, 0, 0),
        (CHANGED, 1, 3),
    ]
    assert not any(result.HasField("status") for result in response.results)


async def test_a_bad_mutation_has_its_own_status_and_spoils_no_other() -> None:
    ahead = Timestamp()
    ahead.FromNanoseconds(time.time_ns() + 120 * 10**9)
    bad = [
        (api.LikeMutation(post_id="p", action=LIKE), "ID_EMPTY", "user_id"),
        (api.LikeMutation(user_id="u", post_id=LONG, action=LIKE), "ID_TOO_LONG", "post_id"),
        (api.LikeMutation(user_id=NUL, post_id="p", action=LIKE), "ID_NOT_PRINTABLE", "user_id"),
        (api.LikeMutation(user_id="u", post_id="p"), "ENUM_UNKNOWN", "action"),
        (
            api.LikeMutation(user_id="u", post_id="p", action=7),  # type: ignore[arg-type]  # unknown on purpose
            "ENUM_UNKNOWN",
            "action",
        ),
        (
            api.LikeMutation(user_id="u", post_id="p", action=LIKE, intent_time=ahead),
            "INTENT_IN_FUTURE",
            "intent_time",
        ),
        (
            api.LikeMutation(user_id="u", post_id="p", action=LIKE, intent_time=Timestamp(seconds=-5)),
            "INTENT_INVALID",
            "intent_time",
        ),
    ]
    good = api.LikeMutation(user_id="good", post_id="p", action=LIKE)
    mutations = [mutation for item, _, _ in bad for mutation in (item, good)]
    async with fake_shards("a") as (a,), router(a) as channel:
        response = await like_stub(channel).MutateLikes(api.MutateLikesRequest(mutations=mutations))
    assert a.operations == [(shard.OP_KIND_LIKE, "p", "good")] * len(bad)
    assert [result.like_count.count for result in response.results[1::2]] == [1] * len(bad)
    for index, (_, reason, field) in enumerate(bad):
        error = status_error(response.results[2 * index].status)
        assert error.reason == reason
        assert [violation.field for violation in error.violations] == [f"mutations[{2 * index}].{field}"]
        assert response.results[2 * index].outcome == api.MUTATION_OUTCOME_UNSPECIFIED


async def test_an_undecodable_id_spoils_no_other_mutation() -> None:
    data = api.MutateLikesRequest(
        mutations=[
            api.LikeMutation(user_id="good", post_id="p", action=LIKE),
            api.LikeMutation(user_id="???", post_id="p", action=LIKE),
        ]
    ).SerializeToString()
    async with fake_shards("a") as (a,), router(a) as channel:
        call: Any = channel.unary_unary("/likering.v1.LikeService/MutateLikes")
        raw = await call(data.replace(b"???", SURROGATE))
    good, bad = api.MutateLikesResponse.FromString(raw).results
    assert good.like_count.count == 1
    assert status_error(bad.status).violations[0].field == "mutations[1].user_id"
    assert status_error(bad.status).reason == "ID_NOT_PRINTABLE"
    assert a.operations == [(shard.OP_KIND_LIKE, "p", "good")]


async def test_all_mutations_bad_is_no_call_to_a_shard() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        response = await like_stub(channel).MutateLikes(
            api.MutateLikesRequest(mutations=[api.LikeMutation(action=LIKE)])
        )
    assert len(response.results) == 1
    assert not a.batches


async def test_a_mutation_that_a_shard_refuses_has_its_own_status() -> None:
    def second_is_ahead(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        response.codes[1] = shard.OP_CODE_INTENT_IN_FUTURE
        response.codes[2] = shard.OP_CODE_STORAGE_FULL

    mutations = [api.LikeMutation(user_id=user, post_id="p", action=LIKE) for user in "abc"]
    async with fake_shards("a") as (a,), router(a) as channel:
        a.answering.append(second_is_ahead)
        # A bad one before them: the positions of the shard's answer are not those of the request.
        response = await like_stub(channel).MutateLikes(
            api.MutateLikesRequest(mutations=[api.LikeMutation(), *mutations])
        )
    _, fine, ahead, full = response.results
    assert fine.outcome == CHANGED
    assert status_error(ahead.status).violations[0].field == "mutations[2].intent_time"
    assert status_error(full.status).reason == "STORAGE_FULL"
    assert status_error(full.status).retry_after


async def test_a_page_of_summaries() -> None:
    posts = [post_in(slot) for slot in (3, 0, 2, 1, 0)]
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        stub = like_stub(channel)
        for post in posts[1:3]:
            await stub.Like(api.LikeRequest(user_id="u", post_id=post))
        await stub.Like(api.LikeRequest(user_id="other", post_id=posts[3]))
        with_viewer = await stub.GetLikeSummaries(
            api.GetLikeSummariesRequest(post_ids=posts, viewer_user_id="u")
        )
        without = await stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=posts))
    assert [summary.like_count.post_id for summary in with_viewer.summaries] == posts
    assert [summary.like_count.count for summary in with_viewer.summaries] == [0, 1, 1, 1, 1]
    assert [summary.viewer_has_liked for summary in with_viewer.summaries] == [False, True, True, False, True]
    assert [summary.viewer_has_liked for summary in without.summaries] == [False] * 5
    assert not with_viewer.unreachable


async def test_a_shard_that_is_down_is_unreachable_or_fails_the_page() -> None:
    posts = [post_in(slot) for slot in (1, 0, 3, 2)]
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        stub = like_stub(channel)
        await b.stop()
        partial = await stub.GetLikeSummaries(
            api.GetLikeSummariesRequest(post_ids=posts, viewer_user_id="u", return_partial_success=True),
            timeout=30,
        )
        error = await refusal(stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=posts), timeout=0.5))
    assert [summary.like_count.post_id for summary in partial.summaries] == [posts[1], posts[3]]
    assert list(partial.unreachable) == [posts[0], posts[2]]
    assert error.reason == "SHARD_UNAVAILABLE"


async def test_partial_success_hides_no_bug() -> None:
    def fails(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        raise RuntimeError

    async with fake_shards("a") as (a,), router(a) as channel:
        a.answering.append(fails)
        error = await refusal(
            like_stub(channel).GetLikeSummaries(
                api.GetLikeSummariesRequest(post_ids=["p"], return_partial_success=True)
            )
        )
    assert error.reason == "INTERNAL"


async def test_which_of_my_friends_liked_it() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stub = like_stub(channel)
        for user in ("u3", "u1"):
            await stub.Like(api.LikeRequest(user_id=user, post_id="p"))
        response = await stub.FilterLikers(
            api.FilterLikersRequest(post_id="p", user_ids=["u1", "u2", "u3", "u1"])
        )
    assert list(response.liked_user_ids) == ["u1", "u3", "u1"]


async def test_a_version_ahead_of_the_owner_is_a_failed_precondition() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.answering.append(failing(shard.OP_CODE_VERSION_AHEAD))
        error = await refusal(
            like_stub(channel).GetLikeCount(api.GetLikeCountRequest(post_id="p", min_version=99))
        )
    assert isinstance(error, VersionAhead)


Calling = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("calling", "reason", "field"),
    [
        (lambda stub: stub.Like(api.LikeRequest(post_id="p")), "ID_EMPTY", "user_id"),
        (lambda stub: stub.Like(api.LikeRequest(user_id="u", post_id=LONG)), "ID_TOO_LONG", "post_id"),
        (
            lambda stub: stub.Unlike(api.UnlikeRequest(user_id=NUL, post_id="p")),
            "ID_NOT_PRINTABLE",
            "user_id",
        ),
        (
            lambda stub: stub.Like(
                api.LikeRequest(user_id="u", post_id="p", intent_time=Timestamp(nanos=-1))
            ),
            "INTENT_INVALID",
            "intent_time",
        ),
        (
            lambda stub: stub.Like(
                api.LikeRequest(user_id="u", post_id="p", intent_time=Timestamp(seconds=2**33))
            ),
            "INTENT_IN_FUTURE",
            "intent_time",
        ),
        (
            lambda stub: stub.GetLikeCount(api.GetLikeCountRequest(post_id="p", consistency=cast(Any, 9))),
            "ENUM_UNKNOWN",
            "consistency",
        ),
        (
            lambda stub: stub.GetLikeCount(api.GetLikeCountRequest(post_id="p", consistency=cast(Any, -1))),
            "ENUM_UNKNOWN",
            "consistency",
        ),
        (
            lambda stub: stub.HasLiked(api.HasLikedRequest(user_id="u", post_id="p", min_version=-1)),
            "VERSION_NEGATIVE",
            "min_version",
        ),
        (lambda stub: stub.MutateLikes(api.MutateLikesRequest()), "BATCH_EMPTY", "mutations"),
        (
            lambda stub: stub.MutateLikes(api.MutateLikesRequest(mutations=[api.LikeMutation()] * 1001)),
            "BATCH_TOO_LARGE",
            "mutations",
        ),
        (
            lambda stub: stub.GetLikeSummaries(api.GetLikeSummariesRequest(post_ids=["p"] * 201)),
            "BATCH_TOO_LARGE",
            "post_ids",
        ),
        (
            lambda stub: stub.GetLikeSummaries(
                api.GetLikeSummariesRequest(post_ids=["p", ""], viewer_user_id="u")
            ),
            "ID_EMPTY",
            "post_ids[1]",
        ),
        (
            lambda stub: stub.FilterLikers(api.FilterLikersRequest(post_id="p", user_ids=["u", LONG])),
            "ID_TOO_LONG",
            "user_ids[1]",
        ),
    ],
)
async def test_bad_input_is_refused_by_field_and_reaches_no_shard(
    calling: Calling, reason: str, field: str
) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        error = await refusal(calling(like_stub(channel)))
        assert error.reason == reason
        assert [violation.field for violation in error.violations] == [field]
        assert not a.batches


async def test_a_call_without_deadline_is_not_for_ever() -> None:
    async with fake_shards("a") as (a,), router(a, default_deadline=0.5) as channel:
        await a.stop()
        call = asyncio.ensure_future(like_stub(channel).Like(api.LikeRequest(user_id="u", post_id="p")))
        started = monotonic()
        error = await refusal(call)
        assert error.reason == "SHARD_UNAVAILABLE"
        assert monotonic() - started < 5
