"""ListLikers at the router: the owner is asked, and asked again, as callers need not know."""

from __future__ import annotations

import asyncio

import pytest

from likering.paging import PageTokens
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from router.dispatch import Dispatch
from tests.parts.fake_router import refusal, router
from tests.parts.fake_shard import CLUSTER, fake_shards, post_in, topology_of
from tests.parts.stubs import like_stub
from tests.parts.until import until

POST = post_in(0)


def request(**fields: object) -> api.ListLikersRequest:
    return api.ListLikersRequest(post_id=POST, **fields)  # type: ignore[arg-type]


async def test_the_owner_is_asked_for_one_more_than_the_page_has() -> None:
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        a.liked[POST] = {"u1": 10, "u2": 20, "u3": 30}
        a.versions[POST] = 5
        page = await like_stub(channel).ListLikers(request(page_size=2))
        assert [like.user_id for like in page.likes] == ["u3", "u2"]
        assert [like.like_time.ToMicroseconds() for like in page.likes] == [30, 20]
        assert (page.total.count, page.total.version) == (3, 5)
        assert page.total.exactness == api.EXACTNESS_EXACT
        rest = await like_stub(channel).ListLikers(request(page_size=2, page_token=page.next_page_token))
        assert ([like.user_id for like in rest.likes], rest.next_page_token) == (["u1"], "")
        newest = 2**63 - 1
        asked = [(one.limit, one.before_time, one.before) for one in a.lists]
        assert asked == [(3, newest, newest), (3, 20, 20)]
        assert a.lists[0].cluster_id == CLUSTER
        assert b.lists == []


@pytest.mark.parametrize(("wanted", "asked"), [(0, 51), (1000, 1001), (2**31 - 1, 1001)])
async def test_page_sizes_have_a_default_and_a_limit(wanted: int, asked: int) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        await like_stub(channel).ListLikers(request(page_size=wanted))
        assert a.lists[0].limit == asked


async def test_all_routers_take_each_others_tokens() -> None:
    token = PageTokens(CLUSTER, "ListLikers", numbers=2).make(POST, 78, 77)
    async with fake_shards("a") as (a,), router(a) as channel:
        await like_stub(channel).ListLikers(request(page_token=token))
        assert (a.lists[0].before_time, a.lists[0].before) == (78, 77)
        for foreign in (
            PageTokens(CLUSTER, "ListLikedPosts", numbers=2).make(POST, 78, 77),
            PageTokens("another cluster", "ListLikers", numbers=2).make(POST, 78, 77),
            PageTokens(CLUSTER, "ListLikers", numbers=2).make("another post", 78, 77),
            PageTokens(CLUSTER, "ListLikers").make(POST, 77),
        ):
            error = await refusal(like_stub(channel).ListLikers(request(page_token=foreign)))
            assert error.reason == "PAGE_TOKEN_INVALID"
        assert len(a.lists) == 1


@pytest.mark.parametrize("code", [shard.OP_CODE_MOVING, shard.OP_CODE_UNAVAILABLE, shard.OP_CODE_NOT_OWNER])
async def test_what_passes_is_asked_again(code: shard.OpCode.ValueType) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.liked[POST] = {"u1": 10}
        a.list_codes += [code, code]
        page = await like_stub(channel).ListLikers(request())
        assert [like.user_id for like in page.likes] == ["u1"]
        assert len(a.lists) == 3


async def test_the_new_owner_is_asked_when_the_slot_has_moved() -> None:
    dispatch = Dispatch()
    async with fake_shards("a", "b") as (a, b), router(a, b, dispatch=dispatch) as channel:
        a.epochs, a.topology_version = {}, 2
        b.epochs, b.liked[POST] = {0: 2}, {"u1": 10}
        call = asyncio.ensure_future(like_stub(channel).ListLikers(request()))
        await until(lambda: len(a.lists) > 0)
        dispatch.use(topology_of(b, version=2, epochs={0: 2}, nodes=(a,)))
        page = await call
        assert [like.user_id for like in page.likes] == ["u1"]
        assert b.lists[0].epoch == 2


async def test_a_deadline_ends_the_asking() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.list_codes += [shard.OP_CODE_MOVING] * 1000
        error = await refusal(like_stub(channel).ListLikers(request(), timeout=0.3))
        assert error.reason == "SLOT_MOVING"


async def test_a_node_that_is_away_is_waited_for() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        await a.stop(grace=0)
        error = await refusal(like_stub(channel).ListLikers(request(), timeout=0.5))
        assert error.reason == "SHARD_UNAVAILABLE"
        await a.start(a.address)
        a.liked[POST] = {"u1": 10}
        page = await like_stub(channel).ListLikers(request(), timeout=5)
        assert len(page.likes) == 1


async def test_a_code_that_no_list_has_is_a_bug() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.list_codes.append(shard.OP_CODE_STORAGE_FULL)
        error = await refusal(like_stub(channel).ListLikers(request()))
        assert error.reason == "INTERNAL"
