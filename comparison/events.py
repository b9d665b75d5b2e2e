"""The change feed from its beginning: how fast one consumer catches up, and whether it gets everything."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from comparison.resize import Say, ring
from likering import AsyncLikes
from likering.bench.choices import Keys
from likering.bench.workload import Op


async def catching_up(directory: Path, say: Say, *, likes: int, runs: int) -> dict[str, Any]:
    """So many likes on three nodes; one consumer reads them all, several times."""
    async with ring(directory, say, nodes=3, slots=64) as one:
        while one.written.likes < likes:
            await one.load(mix={Op.MUTATE: 1}, keys=Keys.SPREAD, seconds=2.0, warmup=0.0, in_flight=16)
        stored = sum(_edges(node.postgres_dsn) for node in one.cluster.nodes.values())
        say(f"{stored:,} edges stored")
        rates: list[float] = []
        missing = twice = 0
        async with AsyncLikes(one.cluster.address, timeout=30.0) as client:
            for _ in range(runs):
                firsts = events = batches = 0
                began = time.monotonic()
                async with aclosing(client.events(max_batch=2000)) as feed:
                    async for batch in feed:
                        events += len(batch)
                        batches += 1
                        firsts += sum(event.first_like for event in batch)
                        if firsts >= stored:
                            break
                        if time.monotonic() - began > 600:
                            break
                seconds = time.monotonic() - began
                missing += stored - firsts
                twice += max(firsts - stored, 0)
                rates.append(events / seconds)
                say(f"{events:,} events in {batches:,} batches, {rates[-1]:,.0f} events/s")
        return {
            "edges": stored,
            "events/s, median": median(rates),
            "events/s, lowest and highest": [min(rates), max(rates)],
            "failed": missing + twice,
            "problem": await asyncio.to_thread(one.problem),
        }


def _edges(dsn: str) -> int:
    with psycopg.connect(dsn, options="-csearch_path=likering") as connection:
        row = connection.execute("SELECT count(*) FROM edges WHERE liked OR first_rev IS NOT NULL").fetchone()
    assert row is not None
    return int(row[0])
