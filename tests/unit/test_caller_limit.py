"""How much a caller may ask of a router, and what it is told when that was too much."""

from __future__ import annotations

import pytest

from likering.errors import CallerRateLimited
from likering.v1 import like_service_pb2 as api
from router import caller_limit
from router.caller_limit import CallerLimit
from tests.parts.clock import Clock

LIKE = api.LikeRequest(user_id="u", post_id="p")


def admitted(limit: CallerLimit, caller: str = "a", request: object = LIKE, *, most: int = 1000) -> int:
    """How many such calls in a row are let in."""
    for calls in range(most):
        try:
            limit.admit(caller, request)
        except CallerRateLimited:
            return calls
    return most


def test_a_caller_has_its_rate_and_a_burst_of_two_seconds() -> None:
    clock = Clock()
    limit = CallerLimit(10, clock=clock)
    assert admitted(limit) == 20
    clock.now += 0.5
    assert admitted(limit) == 5
    clock.now += 3600
    assert admitted(limit) == 20


def test_each_caller_has_a_bucket_of_its_own() -> None:
    limit = CallerLimit(10, clock=Clock())
    assert admitted(limit, "greedy") == 20
    assert admitted(limit, "modest") == 20


@pytest.mark.parametrize(
    "request_of_many",
    [
        api.MutateLikesRequest(mutations=[api.LikeMutation()] * 40),
        api.GetLikeSummariesRequest(post_ids=["p"] * 40),
        api.FilterLikersRequest(user_ids=["u"] * 40),
        api.WatchLikeCountsRequest(post_ids=["p"] * 40),
    ],
)
def test_a_batch_counts_as_what_is_in_it(request_of_many: object) -> None:
    """It is let in however large, and waited off."""
    clock = Clock()
    limit = CallerLimit(10, clock=clock)
    assert admitted(limit, request=request_of_many) == 1
    clock.now += 2.05
    assert admitted(limit) == 0
    clock.now += 0.1
    assert admitted(limit, most=1) == 1


def test_an_empty_batch_is_not_free() -> None:
    assert admitted(CallerLimit(10, clock=Clock()), request=api.MutateLikesRequest()) == 20


def test_who_comes_again_when_told_is_let_in() -> None:
    clock = Clock()
    limit = CallerLimit(0.5, clock=clock)
    admitted(limit)
    with pytest.raises(CallerRateLimited) as caught:
        limit.admit("a", LIKE)
    assert caught.value.metadata == {"operations_per_second": "0.5"}
    assert caught.value.retry_after is not None
    clock.now += caught.value.retry_after
    assert admitted(limit) == 1


def test_what_is_refused_costs_nothing() -> None:
    """Or a caller that goes on asking would never be let in again."""
    clock = Clock()
    limit = CallerLimit(10, clock=clock)
    assert admitted(limit) == 20
    for _ in range(100):
        assert admitted(limit) == 0
    clock.now += 0.1
    assert admitted(limit) == 1


def test_callers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have been away longest are forgotten: their buckets are the fullest."""
    monkeypatch.setattr(caller_limit, "_MOST_REMEMBERED", 3)
    limit = CallerLimit(10, clock=Clock())
    assert admitted(limit, "a") == 20
    for caller in ("b", "c"):
        limit.admit(caller, LIKE)
    assert admitted(limit, "a") == 0
    limit.admit("d", LIKE)
    assert repr(limit) == "<CallerLimit 10/s, 3 callers>"
