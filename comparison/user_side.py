"""The users' side: how soon a like is listed while many come, and what telling costs the likes."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from comparison.resize import Say, ring
from likering import AsyncLikes
from likering.bench.workload import Op
from shard_node.user_chunks import count

_LIKES = {Op.LIKE: 1}
_BATCHES = {Op.MUTATE: 1}
_OFF = "LIKERING_NODE_USER_SIDE"
_LOOK = 0.005
_PATIENCE = 30.0


async def user_side(
    directory: Path, say: Say, *, rate: float, batch: int, seconds: float, rounds: int, nodes: int
) -> dict[str, Any]:
    """Likes at a rate, some of them looked for; then, on and off in turn, as many likes as there can be.

    Those at a rate come in MutateLikes calls of ``batch`` likes: one by one, so many would be all that a small machine
    can do, and what was measured would be its queues.
    """
    visible: list[float] = []
    throughput: dict[str, list[float]] = {"on": [], "off": []}
    problems: list[str] = []
    for number in range(rounds):
        for side in ("on", "off") if number % 2 == 0 else ("off", "on"):
            with turned(on=side == "on"):
                async with ring(directory / f"{number}-{side}", say, nodes=nodes) as one:
                    likes = await one.load(mix=_LIKES, seconds=seconds, warmup=2.0, in_flight=256)
                    throughput[side].append(likes.calls_per_second)
                    say(f"user side {side}: {likes.calls_per_second:,.0f} likes/s")
                    if side == "on":
                        await _told([node.postgres_dsn for node in one.cluster.nodes.values()])
                        loading = asyncio.create_task(
                            one.load(
                                mix=_BATCHES, batch=batch, rate=rate / batch, seconds=seconds, warmup=2.0
                            )
                        )
                        visible += await _delays(one.cluster.address, loading)
                        await loading
                    problems.append(await asyncio.to_thread(one.problem) or "")
    visible.sort()
    best = {side: max(found) for side, found in throughput.items()}
    return {
        "likes looked for": len(visible),
        "listed after, p50 ms": _percentile(visible, 0.5) * 1000,
        "listed after, p99 ms": _percentile(visible, 0.99) * 1000,
        "likes/s, user side on": throughput["on"],
        "likes/s, user side off": throughput["off"],
        "on ÷ off": best["on"] / best["off"],
        "problem": " ".join(filter(None, problems)),
    }


@contextmanager
def turned(*, on: bool) -> Iterator[None]:
    """For the nodes that are started meanwhile."""
    os.environ[_OFF] = "true" if on else "false"
    try:
        yield
    finally:
        del os.environ[_OFF]


async def _delays(address: str, loading: asyncio.Task[Any]) -> list[float]:
    """Likes one post after the other, in two places at once, and says how long after its answer each was listed."""
    delays: list[float] = []

    async def look() -> None:
        while not loading.done():
            user, post = f"seen-{secrets.token_hex(6)}", f"post-{secrets.token_hex(6)}"
            await client.like(user, post)
            began = time.monotonic()
            async with asyncio.timeout(_PATIENCE):
                while not len(await client.list_liked_posts(user)):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(_LOOK)
            delays.append(time.monotonic() - began)

    async with AsyncLikes(address, timeout=30.0) as client:
        await asyncio.gather(look(), look())
    return delays


async def _told(dsns: list[str]) -> None:
    """Waits until both sides have as many edges."""
    async with asyncio.timeout(600):
        while len({await asyncio.to_thread(_sum, dsns, side) for side in (_edges, told_edges)}) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


def _sum(dsns: list[str], side: Callable[[psycopg.Connection], int]) -> int:
    total = 0
    for dsn in dsns:
        with psycopg.connect(dsn, options="-csearch_path=likering") as connection:
            total += side(connection)
    return total


def _edges(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM edges").fetchone()
    return row[0] if row else 0


def told_edges(connection: psycopg.Connection) -> int:
    """How many edges the users' side of a node has been told."""
    with connection.transaction(), connection.cursor("chunks") as cursor:
        cursor.itersize = 10_000
        cursor.execute("SELECT entries FROM user_likes")
        return sum(count(entries) for (entries,) in cursor)


def _percentile(ordered: list[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
