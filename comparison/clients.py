"""Loads that are not gRPC calls of prepared bytes: the plain stub, AsyncLikes, and redis-py's MGET.

Each runs so many callers that await one call after the other, as application code does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import grpc.aio
from redis.asyncio import BlockingConnectionPool, Redis

from comparison.figures import Sample
from likering import AsyncLikes
from likering.bench.cpu import Meter
from likering.bench.results import Written
from likering.bench.workload import Source
from likering.errors import LikeringError
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

_CHANNELS = 4


async def _callers(
    number: int, once: Callable[[], Awaitable[int]], meter: Meter, *, warmup: float, seconds: float
) -> Sample:
    """Runs ``once`` (which says how many operations it did) by so many callers; counts the measured time's."""
    loop = asyncio.get_running_loop()
    begin = loop.time() + warmup
    end = begin + seconds
    loop.call_at(begin, meter.begin)
    ended = asyncio.Event()

    def finish() -> None:
        meter.end()
        ended.set()

    loop.call_at(end, finish)
    operations = 0

    async def caller() -> None:
        nonlocal operations
        while loop.time() < end:
            done = await once()
            if begin <= loop.time() < end:
                operations += done

    await asyncio.gather(*(caller() for _ in range(number)))
    await ended.wait()
    return Sample(operations, seconds, dict(meter.seconds))


async def stub_likes(
    address: str,
    source: Source,
    meter: Meter,
    *,
    callers: int,
    warmup: float,
    seconds: float,
    messages: Counter[str],
) -> tuple[Sample, Written]:
    """Like by the generated stub over a few channels.

    Over a single one some of a thousand calls in flight are refused: grpcio's server counts a stream against its limit
    a little longer than the client does.
    """
    written = Written()
    async with AsyncExitStack() as stack:
        stubs = [
            cast(
                "LikeServiceAsyncStub",
                LikeServiceStub(
                    await stack.enter_async_context(
                        # Channels with equal options would share a connection.
                        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
                    )
                ),
            )
            for _ in range(_CHANNELS)
        ]
        turns = itertools.cycle(stubs)

        async def once() -> int:
            user, post = source.edge()
            try:
                response = await next(turns).Like(pb.LikeRequest(user_id=user, post_id=post), timeout=30)
            except grpc.aio.AioRpcError as error:
                written.uncertain += 1
                messages[f"{error.code().name}: {error.details()}"] += 1
                return 0
            written.likes += response.outcome == pb.MUTATION_OUTCOME_CHANGED
            return 1

        sample = await _callers(callers, once, meter, warmup=warmup, seconds=seconds)
    return replace(sample, errors=written.uncertain), written


async def async_likes(
    address: str,
    source: Source,
    meter: Meter,
    *,
    callers: int,
    warmup: float,
    seconds: float,
    messages: Counter[str],
) -> tuple[Sample, Written]:
    """Like by AsyncLikes."""
    written = Written()
    async with AsyncLikes(address, timeout=30) as likes:

        async def once() -> int:
            user, post = source.edge()
            try:
                changed = await likes.like(user, post)
            except LikeringError as error:
                written.uncertain += 1
                messages[f"{error.reason}: {error.message}"] += 1
                return 0
            written.likes += changed
            return 1

        sample = await _callers(callers, once, meter, warmup=warmup, seconds=seconds)
    return replace(sample, errors=written.uncertain), written


async def mutate_waves(
    address: str, source: Source, batch: int, meter: Meter, *, callers: int, seconds: float
) -> tuple[Sample, Written]:
    """MutateLikes by so many callers until the time is over, for a service that takes seconds for one call.

    Counts every call, and the time to the last answer: in a fixed time only a few calls would end.
    """
    written = Written()
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))
        begin = loop.time()
        meter.begin()

        async def caller() -> None:
            while loop.time() < begin + seconds:
                request = pb.MutateLikesRequest()
                for _ in range(batch):
                    user, post = source.edge()
                    request.mutations.add(user_id=user, post_id=post, action=pb.LikeMutation.ACTION_LIKE)
                response = await stub.MutateLikes(request, timeout=60)
                written.likes += sum(
                    result.outcome == pb.MUTATION_OUTCOME_CHANGED for result in response.results
                )

        await asyncio.gather(*(caller() for _ in range(callers)))
        meter.end()
        elapsed = loop.time() - begin
    return Sample(written.likes, elapsed, dict(meter.seconds)), written


async def mget(
    url: str, source: Source, meter: Meter, *, keys: int, callers: int, warmup: float, seconds: float
) -> Sample:
    """MGET of so many keys a call, on as many connections as callers."""
    pool = BlockingConnectionPool.from_url(url, max_connections=callers, timeout=30)
    async with Redis.from_pool(pool) as client:

        async def once() -> int:
            values = await client.mget([f"count:{source.post()}" for _ in range(keys)])
            assert None not in values
            return keys

        return await _callers(callers, once, meter, warmup=warmup, seconds=seconds)


async def fill_for_mget(url: str, posts: list[str]) -> None:
    """Stores a count and version per post, as the node's cache does."""
    async with Redis.from_url(url) as client:
        for start in range(0, len(posts), 1000):
            await client.mset({f"count:{post}": "12345:67890" for post in posts[start : start + 1000]})
