"""The limit of the design: the shard node's own statements, straight through psycopg, without gRPC, router or cache.

Run as a process per writer (``python -m comparison.direct``), as a node has one writer: it prepares its database, says
that it is ready, and then runs the jobs that come as JSON lines on standard input until that ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from random import Random

import psycopg

from comparison.serving import READY
from likering.bench.workload import Workload
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from shard_node import edge_store, store
from shard_node.database import conninfo
from shard_node.identity import establish
from shard_node.partitions import create_partitions
from shard_node.post_numbers import PostNumbers
from shard_node.store import Connection, Fence

_CLUSTER = "00000000-0000-0000-0000-000000000001"


class Writer:
    """One writer of one database, which owns some of the slots."""

    def __init__(self, connection: Connection, slots: list[int], slot_count: int, part: int) -> None:
        self._connection = connection
        self._slots = frozenset(slots)
        self._slot_count = slot_count
        self._part = part
        self._fence = Fence(1, 1)
        self._next_user = 0
        self._last_rev = 0
        self._owned: dict[str, list[tuple[str, int]]] = {}
        self._random = Random(part)
        self._numbers = PostNumbers()

    async def prepare(self) -> None:
        """Makes the schema, as a node does, with its slots owned."""
        connection = self._connection
        nobody = (None,) * self._slot_count
        await establish(
            connection, "direct", Topology(_CLUSTER, 1, self._slot_count, {}, nobody, (0,) * self._slot_count)
        )
        await create_partitions(connection, sorted(self._slots))
        await store.execute(connection, "raise_generation")
        async with connection.transaction():
            await store.add_slots(connection, dict.fromkeys(sorted(self._slots), 1))
            await store.raise_slots_seq(connection, Fence(1, 0))

    async def run(
        self, prefix: str, posts: int, batch: int, warmup: float, seconds: float
    ) -> dict[str, float]:
        """Writes batches of likes of new edges: the number of likes in the measured time, and altogether."""
        owned = self._owned_posts(prefix, posts)
        start = time.monotonic()
        begin, end = start + warmup, start + warmup + seconds
        likes = total = 0
        while (now := time.monotonic()) < end:
            await self._commit(prefix, owned, batch)
            total += batch
            if now >= begin:
                likes += batch
        return {"likes": likes, "total": total, "seconds": time.monotonic() - begin}

    def _owned_posts(self, prefix: str, posts: int) -> list[tuple[str, int]]:
        """The posts of a prefix whose slots this writer owns, with their slots."""
        workload = Workload(prefix, posts=posts)
        owned = self._owned.get(prefix)
        if owned is None:
            every = (
                (name := workload.post_id(index), slot_of(name, self._slot_count)) for index in range(posts)
            )
            owned = self._owned[prefix] = [(name, slot) for name, slot in every if slot in self._slots]
        return owned

    async def _commit(self, prefix: str, owned: list[tuple[str, int]], batch: int) -> None:
        """One group commit of the node, as shard_node.commit makes it of likes that are all new."""
        connection, fence = self._connection, self._fence
        chosen = self._random.choices(owned, k=batch)
        users = [
            f"{prefix}{self._part:02}{number:011}"
            for number in range(self._next_user, self._next_user + batch)
        ]
        self._next_user += batch
        await edge_store.load_numbers(connection, self._numbers, self._slots)
        base_rev = max(self._last_rev, time.time_ns() // 1000)
        self._last_rev = base_rev + batch
        async with connection.pipeline():
            await connection.execute("BEGIN")
            fenced = await store.raise_fence(connection, fence, self._last_rev)
            inserting = await edge_store.insert_likes(
                connection,
                fence,
                base_rev,
                [post for post, _ in chosen],
                users,
                [slot for _, slot in chosen],
                [],
                self._numbers,
            )
            await connection.execute("COMMIT")
        await store.check_fence(fenced)
        inserted = await edge_store.inserted_likes(inserting)
        assert inserted.positions is None, "all edges are new"
        self._numbers.learn(inserted.numbers, dict(chosen))


async def _main() -> None:
    setup = json.loads(sys.stdin.readline())
    loop = asyncio.get_running_loop()
    async with await psycopg.AsyncConnection.connect(
        conninfo(setup["dsn"], "direct"), autocommit=True
    ) as connection:
        writer = Writer(connection, setup["slots"], setup["slot_count"], setup["part"])
        await writer.prepare()
        print(READY, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await writer.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
