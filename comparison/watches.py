"""Watches: how soon a like is told, and whether thousands of watchers of one post are all told the last count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio

from comparison.resize import Ring, Say, ring
from likering import AsyncLikes, Mutation
from likering.bench.choices import Keys
from likering.bench.workload import Op
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub

CONNECTIONS = 4
PATIENCE = 30.0
"""Seconds after which a last count that has not come is lost."""


async def watching(
    directory: Path, say: Say, *, watchers: int, rate: float, seconds: float, nodes: int
) -> dict[str, Any]:
    """One watcher, and then many of one post, while calls come at a rate."""
    async with ring(directory, say, nodes=nodes) as one, AsyncLikes(one.cluster.address) as likes:
        load = {"mix": {Op.LIKE: 1, Op.COUNT: 9}, "keys": Keys.SPREAD, "rate": rate, "seconds": seconds}
        say("one watcher")
        alone, _ = await asyncio.gather(_updates(likes, seconds), one.load(**load))
        say(f"{watchers:,} watchers of one post")
        return {
            "rate of other calls": rate,
            "like → update, one watcher": _percentiles(alone),
            **await _crowd(one, likes, watchers, seconds, load),
            "problem": await asyncio.to_thread(one.problem),
        }


async def _updates(likes: AsyncLikes, seconds: float) -> list[float]:
    """Seconds from a like's call to its update, for likes that come less often than updates may."""
    post, sent, found = "watched", dict[int, float](), list[float]()

    async def watch() -> None:
        async with aclosing(likes.watch([post])) as counts:
            async for count in counts:
                begun.set()
                if count.version in sent:
                    found.append(time.monotonic() - sent[count.version])
                    if len(found) == len(sent) and ended.is_set():
                        return

    begun, ended = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(watch())
    await begun.wait()
    until = time.monotonic() + seconds
    version = 0
    while time.monotonic() < until:
        version += 1
        sent[version] = time.monotonic()
        await likes.like(f"u{version}", post)
        await asyncio.sleep(0.15)
    ended.set()
    async with asyncio.timeout(PATIENCE):
        if len(found) < len(sent):
            await task
    task.cancel()
    await asyncio.wait({task})
    return found


async def _crowd(
    one: Ring, likes: AsyncLikes, watchers: int, seconds: float, load: Mapping[str, Any]
) -> dict[str, Any]:
    """Likes of one post as fast as they are answered, and who is told the last one."""
    post, last = "viral", 0
    seen, updates, told_at = [-1] * watchers, [0] * watchers, [0.0] * watchers
    async with AsyncExitStack() as stack:
        stubs: list[Any] = []
        for number in range(CONNECTIONS):
            options = [("grpc.use_local_subchannel_pool", 1), ("likering.connection", number)]
            channel = grpc.aio.insecure_channel(one.cluster.address, options=options)
            stubs.append(LikeServiceStub(await stack.enter_async_context(channel)))

        async def watch(number: int) -> None:
            call = stubs[number % CONNECTIONS].WatchLikeCounts(pb.WatchLikeCountsRequest(post_ids=[post]))
            async for response in call:
                for count in response.like_counts:
                    seen[number] = count.version
                    updates[number] += 1
                    told_at[number] = time.monotonic()

        tasks = [asyncio.create_task(watch(number)) for number in range(watchers)]
        while min(seen) < 0:  # noqa: ASYNC110 - of two thousand streams: no event tells
            await asyncio.sleep(0.05)
        began, before = time.monotonic(), sum(updates)

        async def like() -> None:
            nonlocal last
            while time.monotonic() < began + seconds:
                results = await likes.mutate([Mutation.like(f"u{last + n}", post) for n in range(20)])
                assert results[-1].like_count is not None
                last = results[-1].like_count.version

        _, others = await asyncio.gather(like(), one.load(**load))
        ended = time.monotonic()
        while min(seen) < last and time.monotonic() < ended + PATIENCE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return {
        "watchers": watchers,
        "likes of the post": last,
        "without the last count": sum(version < last for version in seen),
        "updates/s of all": (sum(updates) - before) / (max(told_at) - began),
        "seconds until all had the last": max(0.0, max(told_at) - ended),
        "other calls, p99 ms": others.ops[Op.COUNT].latency.percentile(99) / 1000,
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "likes": len(ordered),
        "p50 ms": median(ordered) * 1000,
        "p99 ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "longest ms": ordered[-1] * 1000,
    }
