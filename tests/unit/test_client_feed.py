"""The clients' side of the change feed: broken streams are gone on with, and a closed client ends them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest

from likering import (
    AsyncLikes,
    ClientClosed,
    CursorInvalid,
    EventBatch,
    InternalError,
    LikeEvent,
    LikeTracker,
    RetryPolicy,
    ShardUnavailable,
)
from likering.client.feed import FEED_PATIENCE, Resumption
from likering.client.memory import MemoryLikes
from tests.parts.like_server import LikeServer

QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.05)


@pytest.fixture
def server() -> Iterator[LikeServer]:
    with LikeServer() as server:
        yield server


def users(events: list[LikeEvent]) -> list[str]:
    return [event.user_id for event in events]


def some(batches: Iterator[EventBatch], count: int) -> list[LikeEvent]:
    """The next events, at least so many."""
    found: list[LikeEvent] = []
    while len(found) < count:
        found += next(batches)
    return found


async def some_of(batches: AsyncGenerator[EventBatch, None], count: int) -> list[LikeEvent]:
    found: list[LikeEvent] = []
    while len(found) < count:
        found += await anext(batches)
    return found


def test_a_stream_goes_on_from_its_cursor_when_the_service_is_back() -> None:
    memory = MemoryLikes()
    first = LikeServer(memory=memory)
    with LikeTracker(first.address, retry=QUICK) as likes:
        batches = likes.events()
        likes.like("u1", "p")
        assert users(some(batches, 1)) == ["u1"]
        likes.like("u2", "p")
        assert users(some(batches, 1)) == ["u2"]
        first.stop()
        with LikeServer(first.port, memory=memory) as second:
            likes.like("u3", "p")
            assert users(some(batches, 1)) == ["u3"]
            (request,) = [request for method, request in second.calls if method == "StreamLikeEvents"]
            assert request.cursor
        likes.close()


async def test_an_asyncio_stream_goes_on_from_its_cursor_when_the_service_is_back() -> None:
    memory = MemoryLikes()
    first = LikeServer(memory=memory)
    async with AsyncLikes(first.address, retry=QUICK) as likes:
        batches = likes.events(from_now=True)
        await anext(batches)
        await likes.like("u1", "p")
        assert users(await some_of(batches, 1)) == ["u1"]
        await asyncio.to_thread(first.stop)
        with LikeServer(first.port, memory=memory):
            await likes.like("u2", "p")
            assert users(await some_of(batches, 1)) == ["u2"]
        await batches.aclose()


def test_what_would_stay_is_raised_at_once(server: LikeServer) -> None:
    with LikeTracker(server.address, retry=QUICK) as likes:
        with pytest.raises(CursorInvalid):
            next(likes.events(cursor="nonsense"))
        server.faults.append(InternalError())
        with pytest.raises(InternalError):
            next(likes.events())
        server.faults.append(ShardUnavailable())
        assert next(likes.events()).events == ()
    assert server.methods().count("StreamLikeEvents") == 4


@pytest.mark.parametrize("place", ["memory", "server"])
def test_a_closed_tracker_ends_its_streams(server: LikeServer, place: str) -> None:
    likes = LikeTracker(server.address if place == "server" else None)
    batches = likes.events()
    next(batches)
    closing = threading.Timer(0.1, likes.close)
    closing.start()
    with pytest.raises(ClientClosed):
        some(batches, 1)
    closing.join()
    with pytest.raises(ClientClosed):
        next(likes.events())


@pytest.mark.parametrize("place", ["memory", "server"])
async def test_a_closed_asyncio_client_ends_its_streams(server: LikeServer, place: str) -> None:
    likes = AsyncLikes(server.address if place == "server" else None)
    batches = likes.events()
    await anext(batches)
    reading = asyncio.ensure_future(some_of(batches, 1))
    await asyncio.sleep(0)
    await likes.close()
    with pytest.raises(ClientClosed):
        await reading
    with pytest.raises(ClientClosed):
        await anext(likes.events())


async def test_cancelling_whoever_iterates_is_no_closing(server: LikeServer) -> None:
    async with AsyncLikes(server.address) as likes:
        batches = likes.events()
        await anext(batches)
        reading = asyncio.ensure_future(some_of(batches, 1))
        await asyncio.sleep(0)  # it waits for the server
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


def test_the_waits_between_attempts_grow_until_something_comes() -> None:
    resumption = Resumption("", RetryPolicy(initial_backoff=1, max_backoff=4), lambda: 1.0, 0.0)
    away = ShardUnavailable()
    assert [resumption.delay_after(away, 1.0) for _ in range(4)] == [1, 2, 4, 4]
    resumption.received(EventBatch((), "cursor", 64), 10.0)
    assert resumption.cursor == "cursor"
    assert resumption.delay_after(away, 11.0) == 1


def test_a_service_that_stays_away_is_given_up() -> None:
    resumption = Resumption("", QUICK, lambda: 1.0, 0.0)
    assert resumption.delay_after(ShardUnavailable(), FEED_PATIENCE - 1) is not None
    assert resumption.delay_after(ShardUnavailable(), FEED_PATIENCE + 1) is None
    assert (
        Resumption("", RetryPolicy(tokens=0), lambda: 1.0, 0.0).delay_after(ShardUnavailable(), 0.0) is None
    )
    assert Resumption("", QUICK, lambda: 1.0, 0.0).delay_after(InternalError(), 0.0) is None


def test_a_consumer_that_was_busy_for_long_tries_again() -> None:
    """Its stream may have broken meanwhile; that is no sign that the service stays away."""
    resumption = Resumption("", RetryPolicy(), lambda: 0.5, 0.0)
    resumption.received(EventBatch((), "c", 64), 1.0)
    busy = 1.0 + FEED_PATIENCE + 5.0
    assert resumption.delay_after(ShardUnavailable(), busy) is not None
    assert resumption.delay_after(ShardUnavailable(), busy + FEED_PATIENCE + 1.0) is None
