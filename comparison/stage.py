"""Everything that is started for one cluster size: the cluster, echo, peers, direct writers; and a look into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis

from comparison import check
from comparison.peers import count_star, transactions
from comparison.servers import DirectWriter, ServerGroup, create_database
from likering.bench.cpu import Meter, Roots
from likering.dev.cluster import EmbeddedCluster
from likering.dev.valkey import ValkeyServer
from likering.topology.postgres import PostgresTopologyStore

SLOTS = 64


class Stage:
    """Started parts. Databases of peers and of direct writers live in the nodes' own Postgres servers."""

    def __init__(self, directory: Path, nodes: int, processes: int, progress: Callable[[str], None]) -> None:
        self.directory = directory
        self.processes = processes
        self.cluster = EmbeddedCluster(
            directory / "cluster", nodes=nodes, router_workers=processes, slots=SLOTS, progress=progress
        )
        self.valkey = ValkeyServer(directory / "valkey", max_memory="0", what="the Redis peer's Valkey")
        self.servers: dict[str, ServerGroup] = {}
        self.direct: list[DirectWriter] = []
        self.node_dsns: list[str] = []
        self.direct_dsns: list[str] = []
        self.transactions_dsn = ""
        self.count_star_dsn = ""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        await asyncio.to_thread(self.cluster.start)  # it waits, and runs loops of its own
        await asyncio.to_thread(self.valkey.start)
        with redis.Redis.from_url(self.valkey.url) as client:
            # As somebody would who keeps likes in it: nothing is thrown away, and a second may be lost.
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendfsync", "everysec")
            client.config_set("appendonly", "yes")
        nodes = list(self.cluster.nodes.values())
        self.node_dsns = [node.postgres_dsn for node in nodes]
        self.transactions_dsn = create_database(self.node_dsns[0], "transactions", transactions.SCHEMA)
        self.count_star_dsn = create_database(self.node_dsns[0], "count_star", count_star.SCHEMA)
        logs = self.directory / "logs"
        stores = {
            "echo": ("comparison.echo", ""),
            "transactions": ("comparison.peers.transactions", self.transactions_dsn),
            "statement": ("comparison.peers.statement", self.transactions_dsn),
            "count-star": ("comparison.peers.count_star", self.count_star_dsn),
            "redis": ("comparison.peers.redis_sets", self.valkey.url),
        }
        for name, (module, store) in stores.items():
            self.servers[name] = ServerGroup(module, self.processes, logs, store=store)
        await self._start_direct([node.name for node in nodes])

    async def _start_direct(self, names: list[str]) -> None:
        """One writer for each node's Postgres, with the node's own slots."""
        topology_store = PostgresTopologyStore(self.cluster.topology_dsn)
        try:
            topology = await topology_store.get()
        finally:
            await topology_store.close()
        for part, (name, dsn) in enumerate(zip(names, self.node_dsns, strict=True)):
            database = create_database(dsn, "direct")
            self.direct_dsns.append(database)
            slots = sorted(topology.slots_of(name))
            self.direct.append(await DirectWriter.start(database, slots, topology.slot_count, part))

    async def _stop(self) -> None:
        for writer in self.direct:
            await writer.stop()
        for server in self.servers.values():
            server.stop()
        await asyncio.to_thread(self.valkey.stop)
        await asyncio.to_thread(self.cluster.stop)

    def meter(self, *servers: str) -> Meter:
        """Measures all groups; ``server`` are the processes of the named servers."""
        nodes = list(self.cluster.nodes.values())
        groups: Mapping[str, Roots] = {
            "router": lambda: _present(self.cluster.router_pid),
            "nodes": lambda: _present(*(node.pid("node") for node in nodes)),
            "postgres": lambda: _present(*(node.pid("postgres") for node in nodes)),
            "valkey": lambda: _present(self.valkey.pid, *(node.pid("valkey") for node in nodes)),
            "server": lambda: [pid for name in servers for pid in self.servers[name].pids()],
            "direct": lambda: [writer.pid for writer in self.direct],
        }
        return Meter(groups)

    def found(self, store: str, prefix: str) -> check.Found:
        """What one of the stores holds of a prefix."""
        if store == "cluster":
            return check.in_nodes(self.node_dsns, prefix)
        if store == "direct":
            return check.in_nodes(self.direct_dsns, prefix)
        if store == "transactions":
            return check.in_counters(self.transactions_dsn, prefix)
        if store == "count-star":
            return check.in_edges_only(self.count_star_dsn, prefix)
        assert store == "redis"
        return check.in_redis(self.valkey.url, prefix)

    def postgres_version(self) -> str:
        """Of the nodes' servers."""
        with psycopg.connect(self.node_dsns[0]) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]) if row else ""


def _present(*pids: int | None) -> Iterable[int]:
    return [pid for pid in pids if pid is not None]
