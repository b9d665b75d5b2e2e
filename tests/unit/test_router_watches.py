"""WatchLikeCounts at the router: one subscription at the owner, whatever moves or breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from likering.conflation import UPDATE_INTERVAL
from likering.errors import RouterOverloaded
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from router import node_watch, watches
from router.dispatch import Dispatch
from router.watches import Watcher, Watches
from tests.parts.fake_router import refusal, router
from tests.parts.fake_shard import FakeShard, fake_shards, post_in, topology_of
from tests.parts.stubs import like_stub
from tests.parts.until import until

POST = post_in(0)
OTHER = post_in(1)


class Reading:
    """What one caller is told."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._counts: list[api.LikeCount] = []

    async def next(self) -> tuple[str, int]:
        """Post and version of the next count."""
        async with asyncio.timeout(5):
            while not self._counts:
                response = await self._call.read()
                assert response is not grpc.aio.EOF
                self._counts += response.like_counts
        count = self._counts.pop(0)
        assert count.count == count.version
        return count.post_id, count.version


@asynccontextmanager
async def watching(channel: grpc.aio.Channel, *post_ids: str) -> AsyncIterator[Reading]:
    call: Any = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=post_ids))
    try:
        yield Reading(call)
    finally:
        call.cancel()


class Hub(Watches):
    """Watches that remember what nodes have told."""

    def __init__(self, dispatch: Dispatch) -> None:
        super().__init__(dispatch)
        self.dispatch = dispatch
        self.told: list[tuple[str, int]] = []

    def changed(self, post_id: str, count: node_watch.Count) -> None:
        super().changed(post_id, count)
        self.told.append((post_id, count.version))

    def connected(self) -> bool:
        """Whether there is a connection to any node."""
        return any(node.connected for node in self.dispatch._nodes.values())


@asynccontextmanager
async def hub_over(fake: FakeShard) -> AsyncIterator[Hub]:
    """A router's watches without its server, so that a watch has begun when ``watch`` returns."""
    hub = Hub(Dispatch())
    hub.dispatch.use(topology_of(fake))
    await until(hub.connected)
    yield hub
    await no_longer_watched(fake)
    await hub.dispatch.close()


async def versions(watcher: Watcher, *post_ids: str) -> dict[str, int]:
    """What the watcher is told next of each of these posts."""
    found: dict[str, int] = {}
    async with asyncio.timeout(5):
        while found.keys() != set(post_ids):
            for post_id, count in await watcher.counts(5.0):
                found.setdefault(post_id, count.version)
    return found


async def no_longer_watched(*fakes: FakeShard) -> None:
    await until(lambda: not any(fake.watches.streams for fake in fakes))


async def test_current_count_then_changes() -> None:
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        a.watches.change(POST, 3)
        async with watching(channel, POST, OTHER) as counts:
            assert sorted([await counts.next(), await counts.next()]) == sorted([(POST, 3), (OTHER, 0)])
            a.watches.change(POST, 4)
            assert await counts.next() == (POST, 4)
            b.watches.change(OTHER, 1)
            assert await counts.next() == (OTHER, 1)
        await no_longer_watched(a, b)


async def test_any_number_of_watchers_are_one_subscription() -> None:
    async with fake_shards("a") as (a,), router(a) as channel, AsyncExitStack() as stack:
        everybody = [await stack.enter_async_context(watching(channel, POST)) for _ in range(300)]
        for counts in everybody:
            assert await counts.next() == (POST, 0)
        assert a.watches.watched == [POST]
        assert a.watches.opened == 1
        assert len(a.watches.updates) < 250  # what comes together is read together
        a.watches.change(POST, 7)
        for counts in everybody:
            assert await counts.next() == (POST, 7)


async def test_a_new_watcher_is_told_what_was_read_after_it_came() -> None:
    async with fake_shards("a") as (a,), router(a) as channel, watching(channel, POST) as first:
        await first.next()
        a.watches.change(POST, 5, tell=False)
        async with watching(channel, POST) as second:
            assert await second.next() == (POST, 5)
            assert await first.next() == (POST, 5)


async def test_a_read_that_had_begun_before_is_not_the_first_count_of_a_new_watcher() -> None:
    async with fake_shards("a") as (a,), hub_over(a) as hub:
        a.watches.answering.clear()
        with hub.watch([POST]) as first:
            await until(lambda: len(a.watches.updates) == 1)  # it has read and does not answer yet
            with hub.watch([POST, OTHER]) as second:
                a.watches.change(POST, 5, tell=False)
                a.watches.answering.set()
                before, after = await asyncio.gather(versions(first, POST), versions(second, POST, OTHER))
                assert before == {POST: 0}
                assert after == {POST: 5, OTHER: 0}


async def test_a_count_that_came_with_the_first_answer_is_not_told_again() -> None:
    """The post rests when the watcher comes: what is due afterwards it knows already."""
    async with fake_shards("a") as (a,), hub_over(a) as hub:
        with hub.watch([POST]) as first:
            assert await versions(first, POST) == {POST: 0}
            a.watches.change(POST, 1)
            assert await versions(first, POST) == {POST: 1}
            a.watches.change(POST, 2)
            with hub.watch([POST]) as second:
                assert await versions(second, POST) == {POST: 2}
                assert await versions(first, POST) == {POST: 2}
                assert await second.counts(2 * UPDATE_INTERVAL) == []
                a.watches.change(POST, 3)
                assert await versions(second, POST) == {POST: 3}


async def test_what_is_older_or_the_same_is_not_told() -> None:
    async with fake_shards("a") as (a,), router(a) as channel, watching(channel, POST) as counts:
        await counts.next()
        a.watches.change(POST, 5)
        assert await counts.next() == (POST, 5)
        a.watches.tell(POST, 4)
        a.watches.tell(POST, 5)
        a.watches.tell(POST, 6)
        assert await counts.next() == (POST, 6)


async def test_a_change_that_overtakes_the_first_answer_is_not_lost() -> None:
    async with fake_shards("a") as (a,), hub_over(a) as hub:
        a.watches.answering.clear()
        with hub.watch([POST]) as watcher:
            await until(lambda: a.watches.watched == [POST])
            a.watches.change(POST, 9)  # read before, told before the answer
            await until(lambda: (POST, 9) in hub.told)
            a.watches.answering.set()
            assert await versions(watcher, POST) == {POST: 9}


async def test_a_stream_that_ends_is_opened_anew_and_what_was_missed_is_told() -> None:
    async with fake_shards("a") as (a,), router(a) as channel, watching(channel, POST, OTHER) as counts:
        for _ in range(2):
            await counts.next()
        for version in range(1, 5):
            a.watches.end()
            a.watches.change(POST, version, tell=False)
            assert await counts.next() == (POST, version)
        assert a.watches.opened == 5


async def test_a_stream_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "SILENCE", 0.3)
    async with fake_shards("a") as (a,), router(a) as channel, watching(channel, POST) as counts:
        await counts.next()
        a.watches.beating = False
        a.watches.change(POST, 2, tell=False)
        assert await counts.next() == (POST, 2)


async def test_a_node_that_is_away_is_waited_for_and_the_stream_stays() -> None:
    async with (
        fake_shards("a", "b") as (a, b),
        router(a, b) as channel,
        watching(channel, POST, OTHER) as counts,
    ):
        for _ in range(2):
            await counts.next()
        await a.stop(grace=0)
        b.watches.change(OTHER, 1)
        assert await counts.next() == (OTHER, 1)  # the others go on
        a.watches.change(POST, 8)
        await a.start(a.address)
        assert await counts.next() == (POST, 8)


async def test_a_watch_of_a_node_that_is_away_begins_when_it_is_back() -> None:
    async with fake_shards("a") as (a,), hub_over(a) as hub:
        await a.stop(grace=0)
        await until(lambda: not hub.connected())
        with hub.watch([POST]) as watcher:
            await a.start(a.address)
            assert await versions(watcher, POST) == {POST: 0}


@pytest.mark.parametrize("code", [shard.OP_CODE_MOVING, shard.OP_CODE_UNAVAILABLE, shard.OP_CODE_NOT_OWNER])
async def test_what_passes_is_asked_again(code: shard.OpCode.ValueType) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        a.watches.codes += [code] * 3
        async with watching(channel, POST) as counts:
            assert await counts.next() == (POST, 0)
        assert len(a.watches.updates) == 4


async def test_a_slot_moves_and_the_watcher_does_not_see_it() -> None:
    dispatch = Dispatch()
    async with (
        fake_shards("a", "b") as (a, b),
        router(a, dispatch=dispatch) as channel,
        watching(channel, POST, OTHER) as counts,
    ):
        for _ in range(2):
            await counts.next()
        a.watches.change(POST, 3)
        assert await counts.next() == (POST, 3)
        a.epochs.pop(0)
        b.epochs = {0: 2}
        b.watches.change(POST, 3)
        owners = {slot: b if slot == 0 else a for slot in range(8)}
        dispatch.use(topology_of(owners, version=2, epochs={0: 2}))
        await until(lambda: b.watches.watched == [POST] and a.watches.watched == [OTHER])
        a.watches.tell(POST, 2)
        b.watches.change(POST, 4)
        assert await counts.next() == (POST, 4)
        a.watches.change(OTHER, 1)
        assert await counts.next() == (OTHER, 1)


async def test_a_process_that_takes_over_is_asked_instead_of_the_one_before() -> None:
    dispatch = Dispatch()
    async with (
        fake_shards("a", "a") as (before, after),
        router(before, dispatch=dispatch) as channel,
        watching(channel, POST) as counts,
    ):
        await counts.next()
        after.watches.change(POST, 2)
        dispatch.use(topology_of(after, version=2, generation=2))
        assert await counts.next() == (POST, 2)
        before.watches.tell(POST, 1)
        await no_longer_watched(before)


async def test_posts_that_are_gone_are_asked_for_until_the_topology_tells_of_the_new_owner() -> None:
    dispatch = Dispatch()
    async with (
        fake_shards("a", "b") as (a, b),
        router(a, dispatch=dispatch) as channel,
        watching(channel, POST) as counts,
    ):
        await counts.next()
        a.epochs.pop(0)
        a.watches.leave(POST, 1)
        await until(lambda: len(a.watches.updates) > 2)
        b.epochs = {0: 2}
        b.watches.change(POST, 1)
        owners = {slot: b if slot == 0 else a for slot in range(8)}
        dispatch.use(topology_of(owners, version=2, epochs={0: 2}))
        assert await counts.next() == (POST, 1)
        await no_longer_watched(a)


async def test_a_slot_that_comes_back_at_another_epoch_is_watched_anew() -> None:
    dispatch = Dispatch()
    async with (
        fake_shards("a") as (a,),
        router(a, dispatch=dispatch) as channel,
        watching(channel, POST) as counts,
    ):
        await counts.next()
        a.epochs[0] = 3
        a.watches.leave(POST, 1)
        a.watches.change(POST, 2, tell=False)
        dispatch.use(topology_of(a, version=2, epochs={0: 3}))
        assert await counts.next() == (POST, 2)
        assert list(a.watches.streams.values()) == [{POST: 3}]


async def test_a_watch_that_comes_before_the_topology_begins_with_it() -> None:
    dispatch = Dispatch()
    hub = Watches(dispatch)
    async with fake_shards("a", "b") as (a, b):
        b.watches.change(OTHER, 6)
        with hub.watch([POST, OTHER]) as watcher:
            told = asyncio.create_task(versions(watcher, POST, OTHER))
            await asyncio.sleep(0)  # it waits
            dispatch.use(topology_of({slot: (a, b)[slot % 2] for slot in range(8)}))
            assert await told == {POST: 0, OTHER: 6}
        await no_longer_watched(a, b)
        await dispatch.close()
    assert repr(hub) == "<Watches 0 posts by 0 watchers at 0 nodes>"


async def test_changes_are_told_ten_times_a_second_at_most_and_the_last_one_is() -> None:
    async with fake_shards("a") as (a,), router(a) as channel, watching(channel, POST) as counts:
        await counts.next()
        told: list[int] = []
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def change() -> None:
            for version in range(1, 301):
                a.watches.change(POST, version)
                await asyncio.sleep(0.002)

        changing = asyncio.create_task(change())
        while not told or told[-1] < 300:
            told.append((await counts.next())[1])
        await changing
        assert told == sorted(set(told))
        assert len(told) <= (loop.time() - began) / 0.1 + 2


async def test_who_reads_slowly_is_given_the_newest_and_the_router_keeps_no_more() -> None:
    """A caller that does not read at all while a million likes come."""
    dispatch = Dispatch()
    hub = Watches(dispatch)
    async with fake_shards("a") as (a,):
        dispatch.use(topology_of(a))
        with hub.watch([POST, OTHER]) as slow:
            await versions(slow, POST, OTHER)
            for version in range(1, 10_001):
                for post_id in (POST, OTHER):
                    hub.changed(post_id, node_watch.Count(version, version, 1, version))
            await asyncio.sleep(2 * UPDATE_INTERVAL)  # in which it could have been told of all
            assert len(slow._changed) == 2
            assert {count.version for _, count in await slow.counts(5.0)} == {10_000}
        await no_longer_watched(a)
        await dispatch.close()


async def test_a_stream_that_is_not_read_is_given_few_answers_and_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over gRPC, which takes what its windows hold and no more."""
    monkeypatch.setattr(watches, "UPDATE_INTERVAL", 0.0)
    posts = [f"{number:0>120}" for number in range(200)]
    rounds = 400
    async with fake_shards("a") as (a,), router(a) as channel:
        call: Any = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=posts))
        await call.read()
        await until(lambda: len(a.watches.watched) == len(posts))
        for version in range(1, rounds + 1):
            a.watches.change_all(posts, version)
            await asyncio.sleep(0.002)
        newest: dict[str, int] = {}
        responses = 0
        while len(newest) < len(posts) or min(newest.values()) < rounds:
            response = await call.read()
            responses += 1
            newest.update({count.post_id: count.version for count in response.like_counts})
        assert responses < rounds / 2
        call.cancel()


async def test_too_many_watchers_or_posts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MOST_WATCHERS", 2)
    monkeypatch.setattr(watches, "MOST_POSTS", 3)
    async with fake_shards("a") as (a,), router(a) as channel:
        async with watching(channel, "p1", "p2") as first, watching(channel, "p3") as second:
            await first.next()
            await second.next()
            call: Any = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=["p1"]))
            assert isinstance(await refusal(call.read()), RouterOverloaded)
        await no_longer_watched(a)
        call = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=["1", "2", "3", "4"]))
        assert isinstance(await refusal(call.read()), RouterOverloaded)


@pytest.mark.parametrize(
    ("post_ids", "reason"), [([], "BATCH_EMPTY"), (["p"] * 201, "BATCH_TOO_LARGE"), ([""], "ID_EMPTY")]
)
async def test_a_request_that_is_wrong_is_refused(post_ids: list[str], reason: str) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        call: Any = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=post_ids))
        assert (await refusal(call.read())).reason == reason


async def test_a_silent_watch_shows_that_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.service.SILENCE", 0.05)
    async with fake_shards("a") as (a,), router(a) as channel:
        call: Any = like_stub(channel).WatchLikeCounts(api.WatchLikeCountsRequest(post_ids=[POST]))
        assert len((await call.read()).like_counts) == 1
        for _ in range(2):
            assert await call.read() == api.WatchLikeCountsResponse()
        call.cancel()
