"""The composition root of a replica: puts the parts together, runs them, drains them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Never

import structlog
from prometheus_client import Gauge

from likering.errors import TopologyUnavailable, WrongCluster
from likering.security.errors import SecurityError
from likering.security.setup import Security, say_how_secured, security_of
from likering.serving import logging, runtime, tracing
from likering.serving.call_metrics import CallMetrics
from likering.serving.channels import MAX_INTERNAL_MESSAGE_BYTES
from likering.serving.handlers import ServiceHandlers
from likering.serving.metrics import serve_metrics
from likering.serving.server import ListenFailed, Server, ServerSettings
from likering.serving.settings import EXIT_CONFIGURATION
from likering.serving.tracing import TracingUnavailable
from likering.shard.v1 import shard_service_pb2
from likering.topology.metrics import TopologyMetrics
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.store import NodeUnknown, ReplicaUnknown, TopologyStore
from likering.topology.watch import TopologyWatch
from shard_node.database import read_pool
from shard_node.identity import Identity, IdentityMismatch, check_cluster
from shard_node.replica import settings as replica_settings
from shard_node.replica.reads import Promoted, ReplicaReader
from shard_node.replica.service import METHODS, ReplicaService
from shard_node.replica.settings import ReplicaSettings
from shard_node.replica.standby import NoReplica, identify

log = structlog.get_logger(__name__)

RETRY_INTERVAL = 0.5
LOOK_INTERVAL = 1.0
"""Seconds between two looks at the database: whether it still is a replica, and how far it is."""
REPLAYED = Gauge(
    "likering_replica_replayed_timestamp_seconds",
    "Time of the last commit that the replica has; a node that is there commits twice a second at least",
)


class Replica:
    """One process of a replica. It writes nothing and leads nothing; there may be any number for a node."""

    def __init__(
        self,
        settings: ReplicaSettings,
        identity: Identity,
        store: TopologyStore,
        watch: TopologyWatch,
        security: Security | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._store = store
        self._watch = watch
        self._pool = read_pool(
            settings.postgres.get_secret_value(), settings.read_connections, of_replica=True
        )
        self._reader = ReplicaReader(self._pool)
        access = security.access() if security is not None else None
        self._server = Server(
            [
                ServiceHandlers(
                    shard_service_pb2.DESCRIPTOR.services_by_name["ShardService"],
                    ReplicaService(identity, self._reader, lambda: watch.latest),
                    slow_call=settings.slow_call,
                    methods=METHODS,
                    guard=access.guard if access is not None else None,
                )
            ],
            ServerSettings(max_message_bytes=MAX_INTERNAL_MESSAGE_BYTES),
            access,
        )
        self._announced = False
        """Whether the topology is of this cluster, and may know this replica."""

    @property
    def _address(self) -> str:
        return self._settings.advertise or self._server.address

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop`` is set or the database is promoted."""
        await self._server.start(self._settings.listen, health_listen=self._settings.health_listen)
        if self._settings.metrics_listen is not None:
            serve_metrics(
                self._settings.metrics_listen,
                CallMetrics(self._server.tallies),
                TopologyMetrics(self._watch),
            )
        await self._pool.open()
        await self._server.set_serving(True)
        announcing = asyncio.create_task(self._announce(), name="announcement")
        tasks = {
            announcing,
            asyncio.create_task(self._look(), name="look"),
            asyncio.create_task(stop.wait(), name="stop"),
        }
        log.info("started", address=self._server.address, node=self._identity.node_name)
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        except Promoted:
            log.warning(
                "the database is no replica any more: a primary belongs to a node",
                node=self._identity.node_name,
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._withdraw()
            await self._server.drain(delay=self._settings.drain_delay, grace=self._settings.drain_grace)
            await self._pool.close(timeout=2.0)
        log.info("drained")

    async def _announce(self) -> Never:
        """Has the topology know this replica, now and whenever it has been forgotten there."""
        node = self._identity.node_name
        topology = await self._watch.at_least(0)
        check_cluster(self._identity, topology)
        self._announced = True
        while True:
            if self._address not in topology.replicas.get(node, ()):
                try:
                    topology = await self._store.register_replica(
                        self._identity.cluster_id, node, self._address
                    )
                except TopologyUnavailable as error:
                    log.warning("cannot register in the topology yet", reason=error.message)
                    await asyncio.sleep(RETRY_INTERVAL)
                    continue
                except NodeUnknown as error:
                    log.warning("the replica of an unknown node", reason=error.message)
                else:
                    log.info("registered", node=node, address=self._address)
                self._watch.refresh_soon()
            topology = await self._watch.newer_than(topology.version)

    async def _withdraw(self) -> None:
        if not self._announced:
            return
        try:
            await self._store.remove_replica(self._address)
        except ReplicaUnknown:
            pass
        except TopologyUnavailable as error:
            log.warning("could not be taken out of the topology", reason=error.message)

    async def _look(self) -> Never:
        while True:
            replayed_until = await self._reader.replayed_until()
            if replayed_until is not None:
                REPLAYED.set(replayed_until / 1e6)
            await asyncio.sleep(LOOK_INTERVAL)


async def serve(settings: ReplicaSettings) -> None:
    """Runs a replica until SIGTERM or SIGINT, or until its database is promoted. Raises NoReplica."""
    stop = runtime.told_to_stop()
    security = security_of(settings)
    say_how_secured(security)
    identity = await identify(settings.postgres.get_secret_value())
    store = PostgresTopologyStore(settings.topology.get_secret_value())
    watch = TopologyWatch(store)
    try:
        watch.begin()
        await Replica(settings, identity, store, watch, security).run(stop)
    finally:
        await watch.stop()
        await store.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``likering-replica``."""
    settings = replica_settings.read(sys.argv[1:] if arguments is None else arguments)
    logging.configure("likering-replica", settings.log_level)
    status = 0
    try:
        if settings.tracing:
            tracing.start("likering-replica")
        runtime.run(serve(settings))
    except (
        NoReplica,
        IdentityMismatch,
        ListenFailed,
        SecurityError,
        TracingUnavailable,
        WrongCluster,
    ) as error:
        print(f"{replica_settings.PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        status = EXIT_CONFIGURATION
    finally:
        tracing.stop()
    raise SystemExit(status)
