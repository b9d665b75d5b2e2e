"""ListLikedPosts at the router: the owner of the user is asked, below the last like of the page before."""

from __future__ import annotations

import pytest

from likering.paging import PageTokens
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from tests.parts.fake_router import refusal, router
from tests.parts.fake_shard import CLUSTER, fake_shards, post_in, topology_of
from tests.parts.stubs import like_stub

USER = post_in(0)
"""Users are on the same ring as posts."""


def request(**fields: object) -> api.ListLikedPostsRequest:
    return api.ListLikedPostsRequest(user_id=USER, **fields)  # type: ignore[arg-type]


async def test_the_users_owner_is_asked_and_likes_of_one_revision_are_all_listed() -> None:
    """Three posts of three nodes' clocks may have the same revision; a page may end between them."""
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        a.liked_by[USER] = {"p1": 20, "p2": 20, "p3": 20, "p4": 10, "p5": 30}
        found, token = [], ""
        for _ in range(3):
            page = await like_stub(channel).ListLikedPosts(request(page_size=2, page_token=token))
            found += [(like.post_id, like.like_time.ToMicroseconds()) for like in page.likes]
            token = page.next_page_token
        assert found == [("p5", 30), ("p3", 20), ("p2", 20), ("p1", 20), ("p4", 10)]
        assert token == ""
        assert [one.limit for one in a.liked_lists] == [3, 3, 3]
        assert [(one.before, one.below_post_id) for one in a.liked_lists] == [
            (2**63 - 1, ""),
            (20, "p3"),
            (20, "p1"),
        ]
        assert a.liked_lists[0].cluster_id == CLUSTER
        assert b.liked_lists == []


async def test_all_routers_take_each_others_tokens_and_no_other_ones() -> None:
    tokens = PageTokens(CLUSTER, "ListLikedPosts")
    async with fake_shards("a") as (a,), router(a) as channel:
        await like_stub(channel).ListLikedPosts(request(page_token=tokens.make_after(USER, 77, "pé")))
        assert (a.liked_lists[0].before, a.liked_lists[0].below_post_id) == (77, "pé")
        for foreign in (
            tokens.make(USER, 77),
            tokens.make_after("another user", 77, "p"),
            tokens.make_after(USER[1:], 77, "p" + USER[:1]),
            PageTokens(CLUSTER, "ListLikers").make_after(USER, 77, "p"),
            PageTokens("another cluster", "ListLikedPosts").make_after(USER, 77, "p"),
        ):
            error = await refusal(like_stub(channel).ListLikedPosts(request(page_token=foreign)))
            assert error.reason == "PAGE_TOKEN_INVALID"
        assert len(a.liked_lists) == 1


@pytest.mark.parametrize("code", [shard.OP_CODE_MOVING, shard.OP_CODE_UNAVAILABLE, shard.OP_CODE_NOT_OWNER])
async def test_what_passes_is_asked_again(code: shard.OpCode.ValueType) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.liked_by[USER] = {"p1": 10}
        a.list_codes += [code, code]
        page = await like_stub(channel).ListLikedPosts(request())
        assert [like.post_id for like in page.likes] == ["p1"]
        assert len(a.liked_lists) == 3
        assert topology_of(a).slot_of(USER) == 0
