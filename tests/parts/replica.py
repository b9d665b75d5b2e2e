"""A replica of a node of a cluster: a streaming standby of its Postgres, and the process that answers from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from likering.dev.cluster import EmbeddedCluster
from likering.dev.ports import free_port
from likering.dev.postgres import PostgresServer
from likering.dev.service import Service
from tests.parts.standby import Standby


@contextmanager
def replica_of(
    cluster: EmbeddedCluster, node: str, directory: Path, *arguments: str, synchronous: bool = False
) -> Iterator[tuple[Standby, Service]]:
    """Both, started; ``arguments`` are for the process. ``synchronous``: the node's commits wait for the standby."""
    primary = cluster.parts[node, "postgres"].server
    assert isinstance(primary, PostgresServer)
    standby = Standby(primary, directory / "standby")
    standby.follow(synchronous=synchronous)
    port = free_port()
    replica = Service(
        "shard_node.replica",
        ["--listen", f"127.0.0.1:{port}", *arguments],
        port=port,
        environment=lambda: {
            "LIKERING_REPLICA_POSTGRES": standby.dsn,
            "LIKERING_REPLICA_TOPOLOGY": cluster.topology_dsn,
        },
        log=directory / "replica.log",
        what="the replica",
    )
    try:
        replica.start()
        yield standby, replica
    finally:
        replica.stop()
        standby.stop()
