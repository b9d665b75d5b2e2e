"""An import into a cluster, beside one binary COPY of the same file into each node's Postgres.

The COPY fills the nodes' own tables, with their indexes, in databases beside: it knows the slots, counts nothing, looks
at nothing that is there, and loses all when it breaks off.
"""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg

from comparison import check
from comparison.servers import create_database
from likering.bench.results import Written
from likering.cli.transfer.blocks import Columns
from likering.cli.transfer.csv_input import CsvLikes
from likering.cli.transfer.times import parser, text_of
from likering.dev.cluster import EmbeddedCluster
from likering.ring.topology import Topology
from likering.topology.postgres import PostgresTopologyStore
from shard_node.database import conninfo
from shard_node.identity import establish
from shard_node.packed_ids import pack
from shard_node.partitions import create_partitions

_POSTS = 20_000
_PREFIX = "7"
_BEGAN = 1_600_000_000_000_000
_COPY = "COPY edges (rev, liked_at, post_no, slot, liked, user_id) FROM STDIN (FORMAT binary)"
_TYPES = ("int8", "int8", "int4", "int2", "bool", "bytea")


async def imports(directory: Path, say: Callable[[str], None], *, likes: int, nodes: int) -> dict[str, Any]:
    """Likes a second of both, from the start of the process, and of the file, to its end."""
    path = directory / "likes.csv"
    _write(path, likes)
    say(f"{likes:,} likes of {_POSTS:,} posts, 19-digit ids: {path.stat().st_size / 1e6:.0f} MB")
    cluster = EmbeddedCluster(directory / "cluster", nodes=nodes, slots=64, progress=say)
    await asyncio.to_thread(cluster.start)
    try:
        seconds = await _imported(cluster, path)
        say(f"import: {likes / seconds:,.0f} likes/s")
        dsns = {name: node.postgres_dsn for name, node in cluster.nodes.items()}
        found = check.in_nodes(list(dsns.values()), _PREFIX)
        topology = await _topology(cluster)
        databases = {name: create_database(dsn, "copied") for name, dsn in dsns.items()}
        for name, dsn in databases.items():
            await _prepare(dsn, sorted(topology.slots_of(name)), topology.slot_count)
        began = time.monotonic()
        copied = await asyncio.to_thread(_copy, path, databases, topology)
        copy_seconds = time.monotonic() - began
        say(f"COPY: {copied / copy_seconds:,.0f} likes/s")
    finally:
        await asyncio.to_thread(cluster.stop)
    return {
        "likes": likes,
        "nodes": nodes,
        "import_per_second": round(likes / seconds),
        "copy_per_second": round(copied / copy_seconds),
        "ratio": round(copy_seconds / seconds, 3),
        "problem": found.problem(Written(likes)),
    }


def _write(path: Path, likes: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Columns())
        # Users and posts are scattered, as in any table that is not sorted by them.
        writer.writerows(
            (
                f"{n * 7_919_000_003 % 10**18:019}",
                f"{_PREFIX}p{n * 104_729 % _POSTS:017}",
                text_of(_BEGAN + 1000 * n),
            )
            for n in range(likes)
        )


async def _imported(cluster: EmbeddedCluster, path: Path) -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "likering.cli", "import", str(path), "--admin", cluster.admin_address),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait():
        raise RuntimeError("the import failed")
    return time.monotonic() - began


async def _topology(cluster: EmbeddedCluster) -> Topology:
    store = PostgresTopologyStore(cluster.topology_dsn)
    try:
        return await store.get()
    finally:
        await store.close()


async def _prepare(dsn: str, slots: Sequence[int], slot_count: int) -> None:
    nobody = Topology(
        "00000000-0000-0000-0000-000000000001", 1, slot_count, {}, (None,) * slot_count, (0,) * slot_count
    )
    async with await psycopg.AsyncConnection.connect(conninfo(dsn, "copy"), autocommit=True) as connection:
        await establish(connection, "copy", nobody)
        await create_partitions(connection, slots)


def _copy(path: Path, databases: dict[str, str], topology: Topology) -> int:
    rev = time.time_ns() // 1000
    copied = 0
    numbers: dict[int, dict[str, int]] = defaultdict(dict)
    with ExitStack() as stack:
        copies = {}
        for name, dsn in databases.items():
            connection = stack.enter_context(psycopg.connect(conninfo(dsn, "copy")))
            copies[name] = stack.enter_context(connection.cursor().copy(_COPY))
            copies[name].set_types(_TYPES)
        file = stack.enter_context(closing(CsvLikes(path, Columns(), parser(None))))
        for block in file.blocks():
            for user, post, at in zip(block.user_ids, block.post_ids, block.like_times, strict=True):
                slot = topology.slot_of(post)
                rev += 1
                copied += 1
                owner = str(topology.owners[slot])
                number = numbers[slot].setdefault(post, len(numbers[slot]) + 1)
                copies[owner].write_row((rev, at, number, slot, True, pack(user)))
    return copied
