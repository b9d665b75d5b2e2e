"""A long list page by page: whether it is complete, and what a page costs at its end and at its start."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from comparison.resize import Say, ring
from likering import AsyncLikes
from likering.bench.choices import Keys
from likering.bench.workload import Op
from shard_node.packed_ids import unpack

PAGE = 100


async def long_list(directory: Path, say: Say, *, likes: int, pages: int) -> dict[str, Any]:
    """One post with so many likes; so many pages of its start and of its end, in turn."""
    async with ring(directory, say, nodes=1, slots=4) as one:
        while one.written.likes < likes:
            await one.load(mix={Op.MUTATE: 1}, keys=Keys.HOT, seconds=2.0, warmup=0.0, in_flight=16)
        post, stored = _largest(one.cluster.nodes["a"].postgres_dsn)
        say(f"a post with {stored:,} likes")
        async with AsyncLikes(one.cluster.address, timeout=30.0) as client:
            users: set[str] = set()
            began, tokens, token = time.monotonic(), [""], ""
            while True:
                page = await client.list_likers(post, page_size=1000, page_token=token)
                users.update(like.user_id for like in page)
                token = page.next_page_token
                if not token:
                    break
                tokens.append(token)
            all_seconds = time.monotonic() - began
            say(f"listed in {all_seconds:.1f} s")
            seconds: dict[str, list[float]] = {"start": [], "end": []}
            for _ in range(pages):
                for where, token in (("start", ""), ("end", tokens[-1])):
                    began = time.monotonic()
                    await client.list_likers(post, page_size=PAGE, page_token=token)
                    seconds[where].append(time.monotonic() - began)
        return {
            "likes of the post": stored,
            "listed": len(users),
            "failed": abs(stored - len(users)),
            "seconds for all, pages of 1000": all_seconds,
            "page of 100 at the start, p50 ms": median(seconds["start"]) * 1000,
            "page of 100 at the end, p50 ms": median(seconds["end"]) * 1000,
            "end ÷ start": median(seconds["end"]) / median(seconds["start"]),
            "problem": await asyncio.to_thread(one.problem),
        }


def _largest(dsn: str) -> tuple[str, int]:
    with psycopg.connect(dsn, options="-csearch_path=likering") as connection:
        row = connection.execute(
            "SELECT post_id, like_count FROM posts ORDER BY like_count DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    return unpack(row[0]), row[1]
