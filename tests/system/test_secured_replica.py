"""A replica of a secured node: it answers its routers behind their certificates, and lets nobody else in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from likering import AsyncLikes, Consistency, Exactness, LikeTracker
from likering.client.credentials import credentials_from_files
from likering.dev.authority import Authority
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.dev.securing import Secured
from likering.dev.service import Service
from likering.shard.v1 import shard_service_pb2 as shard
from shard_node.packed_ids import pack
from tests.parts.answers import NO_HANDSHAKE, NOT_ALLOWED, OK, answer
from tests.parts.replica import replica_of
from tests.parts.standby import Standby
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)

NODE = "a"


@dataclass
class Replicated:
    """A secured cluster of one node with a standby, and a replica process on it."""

    cluster: EmbeddedCluster
    secured: Secured
    standby: Standby
    replica: Service

    def executes(self) -> tuple[str, shard.ExecuteRequest]:
        """The one call that a replica serves."""
        with psycopg.connect(self.cluster.topology_dsn) as connection:
            row = connection.execute("SELECT cluster_id FROM likering.cluster").fetchone()
        assert row is not None
        request = shard.ExecuteRequest(cluster_id=str(row[0]), read_mode=shard.READ_MODE_STALE_OK)
        return "/likering.shard.v1.ShardService/Execute", request


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    directory = tmp_path_factory.mktemp("replicated")
    with EmbeddedCluster(
        directory / "cluster", nodes=[NODE], slots=8, supervise=False, secure=True
    ) as cluster:
        assert cluster.secured is not None
        with replica_of(cluster, NODE, directory) as (standby, replica):
            yield Replicated(cluster, cluster.secured, standby, replica)


async def test_a_secured_replica_answers_while_its_node_is_gone(replicated: Replicated) -> None:
    """To the router, with roles in both databases that are no superusers."""
    cluster = replicated.cluster
    log = cluster.directory / "logs" / "router.log"
    await until(lambda: f'"replica {replicated.replica.address}"' in log.read_text())
    async with AsyncLikes(cluster.address, credentials=replicated.secured.app.credentials()) as likes:
        assert await likes.like("u1", "p1")
        version = (await likes.get_like_count("p1")).version
        await until(lambda: replayed(replicated.standby) >= version)
        for part in ("node", "postgres"):
            cluster.kill(NODE, part)
        try:
            count = await likes.get_like_count("p1", consistency=Consistency.STALE_OK)
        finally:
            for part in ("postgres", "node"):
                await asyncio.to_thread(cluster.parts[NODE, part].start)
    assert (count.count, count.version, count.exactness) == (1, version, Exactness.STALE)


def replayed(standby: Standby) -> int:
    """The version of the post that the standby has."""
    with psycopg.connect(standby.dsn) as connection:
        row = connection.execute(
            "SELECT version FROM likering.posts WHERE post_id = %s", [pack("p1")]
        ).fetchone()
    return int(row[0]) if row else 0


def test_a_replica_lets_in_parts_of_the_cluster_only(replicated: Replicated, tmp_path: Path) -> None:
    own, address, call = replicated.secured, replicated.replica.address, replicated.executes()
    other = Authority(tmp_path / "other")
    of_other = other.issue("router")
    expired = own.authority.issue("router", file="expired", lifetime=timedelta(seconds=-60))
    shown = {
        "none": credentials_from_files(ca=own.authority.ca),
        "plaintext": None,
        "expired": expired.credentials(),
        "other authority": credentials_from_files(
            ca=own.authority.ca, certificate=of_other.certificate, key=of_other.key
        ),
    }
    assert {kind: answer(address, call, credentials) for kind, credentials in shown.items()} == dict.fromkeys(
        shown, NO_HANDSHAKE
    )
    assert answer(address, call, own.app.credentials()) == NOT_ALLOWED
    assert answer(address, call, own.operator.credentials()) == NOT_ALLOWED
    # Replicas take no tokens: neither for callers nor beside a certificate.
    token = own.authority.token("u1")
    assert answer(address, call, own.app.credentials(), token) == NOT_ALLOWED
    assert answer(address, call, own.router.credentials(), token) == OK


async def test_a_replica_shows_renewed_certificates(replicated: Replicated) -> None:
    """From the next handshake on; the router's connection goes on."""
    host, _, port = replicated.replica.address.rpartition(":")

    def shown() -> str:
        return ssl.get_server_certificate((host, int(port)), timeout=5)

    before = await asyncio.to_thread(shown)
    replicated.secured.node("replica")
    await until(lambda: shown() != before)
    with LikeTracker(replicated.cluster.address, credentials=replicated.secured.app.credentials()) as likes:
        assert likes.like_count("nobody's") == 0


def test_a_replica_keeps_its_secrets(replicated: Replicated) -> None:
    """Its log has neither passwords nor keys."""
    log, topology = (
        replicated.replica.log.read_text(),
        replicated.cluster.parts["topology", "postgres"].server,
    )
    assert isinstance(topology, PostgresServer)
    secrets = {
        str(conninfo_to_dict(dsn)["password"])
        for dsn in (replicated.standby.dsn_as("likering_node"), topology.dsn_as("likering_app"))
    }
    key = replicated.secured.authority.directory / "node-replica.key"
    secrets |= set(key.read_text().splitlines()[1:-1])
    assert log
    assert not [secret for secret in secrets if secret in log]
