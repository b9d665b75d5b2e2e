"""Watches of the clients: they connect anew by themselves, and no version goes back or comes twice."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing, closing

import pytest

from likering import (
    AsyncLikes,
    CallerRateLimited,
    ClientClosed,
    InternalError,
    LikeTracker,
    RetryPolicy,
    ServiceUnreachable,
    ShardUnavailable,
)
from likering.client.memory import MemoryLikes
from likering.client.model import Action
from likering.client.watching import Reconnects
from tests.parts.clock import Clock
from tests.parts.like_server import LikeServer

QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.05)


def like(memory: MemoryLikes, *users: str) -> None:
    for user in users:
        memory.apply(user, "p", Action.LIKE, 0)


def reconnects(policy: RetryPolicy | None = None) -> tuple[Reconnects, Clock]:
    clock = Clock()
    return Reconnects(policy or RetryPolicy(), lambda: 1.0, clock, 5.0), clock


def test_before_the_first_answer_it_is_tried_for_a_while_and_then_for_ever() -> None:
    again, clock = reconnects()
    assert again.delay_after(ServiceUnreachable()) == 0.05
    assert again.delay_after(ServiceUnreachable()) == 0.1
    clock.now += 5
    assert again.delay_after(ServiceUnreachable()) is None
    again.answered()
    clock.now += 10_000
    assert again.delay_after(ServiceUnreachable()) == 0.05
    for _ in range(20):
        delay = again.delay_after(ServiceUnreachable())
    assert delay == 1.0


def test_the_server_says_when_to_come_back() -> None:
    again, _ = reconnects()
    assert again.delay_after(CallerRateLimited(retry_after=2.0)) == pytest.approx(2.05)


def test_what_is_no_passing_trouble_ends_the_watch() -> None:
    again, _ = reconnects()
    again.answered()
    assert again.delay_after(InternalError()) is None
    assert reconnects(RetryPolicy(tokens=0))[0].delay_after(ShardUnavailable()) is None


async def test_a_server_that_restarts_is_found_again_and_only_news_is_told() -> None:
    memory = MemoryLikes()
    like(memory, "u1", "u2")
    first = LikeServer(memory=memory)
    async with AsyncLikes(first.address, retry=QUICK) as likes, aclosing(likes.watch(["p"])) as counts:
        assert (await anext(counts)).version == 2
        following = asyncio.ensure_future(anext(counts))
        await asyncio.to_thread(first.stop)
        with LikeServer(first.port, memory=memory) as second:
            await asyncio.to_thread(second.arrived.acquire)
            assert not following.done()  # the same version is no news
            like(memory, "u3")
            async with asyncio.timeout(5):
                assert (await following).version == 3


def test_the_synchronous_client_finds_it_again_too() -> None:
    memory = MemoryLikes()
    like(memory, "u1")
    first = LikeServer(memory=memory)
    with LikeTracker(first.address, retry=QUICK) as likes, closing(likes.watch(["p"])) as counts:
        assert next(counts).version == 1
        first.stop()
        like(memory, "u2")
        with LikeServer(first.port, memory=memory):
            assert next(counts).version == 2


def test_streams_that_end_are_opened_anew_and_versions_do_not_go_back() -> None:
    with LikeServer() as server, LikeTracker(server.address, retry=QUICK) as likes:
        like(server.memory, "u1", "u2", "u3")
        server.streams_end.set()
        with closing(likes.watch(["p"])) as counts:
            assert next(counts).version == 3
            server.memory = MemoryLikes()  # as a server that lags behind
            like(server.memory, "u1")
            answered = threading.Event()

            def catch_up() -> None:
                for _ in range(3):
                    server.arrived.acquire()
                like(server.memory, "u2", "u3", "u4")
                answered.set()

            catching_up = threading.Thread(target=catch_up)
            catching_up.start()
            assert next(counts).version == 4
            catching_up.join()
            assert answered.is_set()


def test_a_service_that_never_answers_is_reported() -> None:
    with LikeServer() as server:
        address = server.address
    with closing(LikeTracker(address, retry=QUICK)) as likes, pytest.raises(ServiceUnreachable):
        next(likes.watch(["p"], timeout=0.2))


async def test_an_error_that_does_not_pass_is_raised() -> None:
    with LikeServer() as server:
        server.faults.append(InternalError())
        async with AsyncLikes(server.address, retry=QUICK) as likes:
            with pytest.raises(InternalError):
                await anext(likes.watch(["p"]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_closing_the_tracker_ends_a_watch_that_waits(in_memory: bool) -> None:
    with LikeServer() as server, closing(LikeTracker(None if in_memory else server.address)) as likes:
        counts = likes.watch(["p"])
        next(counts)
        closing_soon = threading.Timer(0.05, likes.close)
        closing_soon.start()
        with pytest.raises(ClientClosed):
            next(counts)
        closing_soon.join()


@pytest.mark.parametrize("in_memory", [True, False])
async def test_closing_the_async_client_ends_a_watch_that_waits(in_memory: bool) -> None:
    with LikeServer() as server:
        likes = AsyncLikes(None if in_memory else server.address)
        counts = likes.watch(["p"])
        await anext(counts)
        following = asyncio.ensure_future(anext(counts))
        await asyncio.sleep(0)
        await likes.close()
        with pytest.raises(ClientClosed):
            await following
        with pytest.raises(ClientClosed):
            likes.watch(["p"])


async def test_a_cancelled_watch_is_cancelled() -> None:
    with LikeServer() as server:
        async with AsyncLikes(server.address) as likes:
            counts = likes.watch(["p"])
            await anext(counts)
            following = asyncio.ensure_future(anext(counts))
            await asyncio.sleep(0)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following


def test_nothing_is_left_of_a_watch_in_memory() -> None:
    memory = MemoryLikes()
    with memory.watch(["p", "q", "p"], lambda: None):
        assert len(memory._watched.of("p")) == 1
    assert not memory._watched.of("p")
    assert not memory._watched.of("q")
