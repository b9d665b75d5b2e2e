"""The composition root of a shard node: puts the parts together, runs them, drains them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress

import psycopg
import structlog

from likering.errors import TopologyUnavailable, WrongCluster
from likering.postgres.migrations import MigrationError
from likering.security.errors import SecurityError
from likering.security.setup import Security, say_how_secured, security_of
from likering.serving import logging, runtime, tracing
from likering.serving.call_metrics import CallMetrics
from likering.serving.channels import MAX_INTERNAL_MESSAGE_BYTES, Channels
from likering.serving.handlers import ServiceHandlers
from likering.serving.metrics import serve_metrics
from likering.serving.server import ListenFailed, Server, ServerSettings
from likering.serving.settings import EXIT_CONFIGURATION
from likering.serving.tracing import TracingUnavailable
from likering.shard.v1 import shard_admin_service_pb2, shard_service_pb2
from likering.topology.metrics import TopologyMetrics
from likering.topology.moves import MoveStore
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import NodeRefused, NodeRegistration, NodeSuperseded, TopologyStore
from likering.topology.watch import TopologyWatch
from shard_node import settings as node_settings
from shard_node.admin.counts import Counts
from shard_node.admin.drift import Drift
from shard_node.admin.imports import Imports
from shard_node.admin.purge import Purges, nobody_reads
from shard_node.admin.service import ShardAdminService
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.sweeper import Sweeper
from shard_node.admin.user_purge import UserPurges
from shard_node.admin.verifier import Verifier
from shard_node.assignment import Assignment
from shard_node.cache import CountCache
from shard_node.commit import Batch
from shard_node.database import conninfo, read_pool
from shard_node.feed import Feed
from shard_node.handoff.handoffs import Handoffs
from shard_node.handoff.joining import join
from shard_node.handoff.peers import Peers
from shard_node.identity import Identity, IdentityMismatch, check_cluster, establish
from shard_node.leadership import Leadership, LeadershipLost
from shard_node.metrics import NodeMetrics
from shard_node.ownership import Ownership
from shard_node.reads import Reader
from shard_node.service import ShardService
from shard_node.settings import NodeSettings
from shard_node.slot_figures import SlotFigures
from shard_node.standby import StandbyWatch
from shard_node.user_feed import Rows, UserFeed
from shard_node.user_lag import UserFeedLag
from shard_node.user_likes import Codes, UserLikes
from shard_node.watches import Watches
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

EXIT_LEADERSHIP_LOST = 3
"""Exit code of a process whose node another process has taken over: start it again and it waits."""
RETRY_INTERVAL = 0.5
ADMIN_DEADLINE = 30.0
"""Seconds that a call for operators is given: it may have to count the likes of one post."""
CLUSTER_CHECK = 2.0
"""Seconds that a start waits for the topology to see that it is of the node's own cluster."""


class StartFailed(Exception):
    """The node cannot start. The message is for the operator."""


class ShardNode:
    """One process of a shard node."""

    def __init__(
        self,
        settings: NodeSettings,
        identity: Identity,
        store: TopologyStore,
        watch: TopologyWatch,
        moves: MoveStore,
        security: Security | None = None,
    ) -> None:
        """``security``: of what it serves and what it calls; None: none."""
        self._settings = settings
        channels = Channels(security.certificates if security is not None else None)
        access = security.access() if security is not None else None
        self._identity = identity
        self._store = store
        self._watch = watch
        self._moves = moves
        self._pool = read_pool(settings.postgres.get_secret_value(), settings.read_connections)
        self._ownership = Ownership(identity.slot_count)
        self._watches = Watches(self._ownership)
        self._ownership.on_replaced.append(self._watches.slots_changed)
        self._cache = CountCache(settings.cache.get_secret_value(), identity.node_uuid[:8], self._ownership)
        standby = StandbyWatch() if settings.require_synchronous_standby else None
        self._leadership = Leadership(
            settings.postgres.get_secret_value(), settings.name, self._lead_taken, standby=standby
        )
        self._writer = Writer(
            self._leadership,
            self._ownership,
            self._publish,
            max_queued=settings.queued_operations,
            standby=standby,
        )
        self._slot_figures = SlotFigures(
            self._pool, self._ownership, self._writer.tally.slots, settings.metrics_slots
        )
        reader = Reader(self._pool, self._cache, self._ownership, self._leadership, self._writer)
        self._feed = Feed(self._pool, self._ownership, self._leadership, self._writer.reach)
        self._user_likes = UserLikes(self._ownership, self._writer, enabled=settings.user_side)
        # Connections of its own: what is told in bulk is not to be in the way of handoffs.
        self._told_peers = Peers(identity.cluster_id, watch, channels)
        self._user_feed = UserFeed(
            self._pool, self._ownership, self._leadership, self._writer, watch, self._tell
        )
        dsn = settings.postgres.get_secret_value()
        self._handoffs = Handoffs(
            identity,
            dsn=dsn,
            replication_dsn=settings.replication.get_secret_value() if settings.replication else dsn,
            pool=self._pool,
            ownership=self._ownership,
            writer=self._writer,
            moves=moves,
            watch=watch,
            generation=lambda: self._generation,
            marks=self._user_feed.marks_of,
            channels=channels,
        )
        self._slot_reads = SlotReads(self._pool, self._ownership, self._leadership)
        self._counts = Counts(self._slot_reads, self._ownership, self._leadership, self._writer, Drift())
        self._verifier = Verifier(
            self._pool,
            self._counts,
            self._ownership,
            self._writer,
            settings.verify_interval,
        )
        self._handoffs.on_limits.append(lambda limits: self._verifier.limit(limits.verify_rows_per_second))
        service = ShardService(
            identity.cluster_id,
            self._ownership,
            self._writer,
            reader,
            self._writer.load,
            lambda: watch.latest,
            self._handoffs,
            self._watches,
            self._feed,
            self._user_likes,
        )
        self._server = Server(
            [
                ServiceHandlers(
                    shard_service_pb2.DESCRIPTOR.services_by_name["ShardService"],
                    service,
                    slow_call=settings.slow_call,
                    guard=access.guard if access is not None else None,
                ),
                ServiceHandlers(
                    shard_admin_service_pb2.DESCRIPTOR.services_by_name["ShardAdminService"],
                    self._admin_service(),
                    default_deadline=ADMIN_DEADLINE,
                    slow_call=ADMIN_DEADLINE,
                    guard=access.guard if access is not None else None,
                ),
            ],
            ServerSettings(max_message_bytes=MAX_INTERNAL_MESSAGE_BYTES),
            access,
        )
        self._generation = 0
        self._lead_changed = asyncio.Event()

    def _admin_service(self) -> ShardAdminService:
        reads = self._slot_reads
        consumed = self._user_feed.told if self._settings.user_side else nobody_reads
        return ShardAdminService(
            self._identity.cluster_id,
            self._counts,
            Purges(reads, self._ownership, self._writer, consumed),
            UserPurges(reads, self._ownership, self._writer, consumed),
            Imports(self._ownership, self._writer),
            reads,
            self._writer.load,
            lambda: self._watch.latest,
        )

    async def run(self, stop: asyncio.Event) -> int:
        """Serves until ``stop`` is set or the lead is lost. Returns the exit code."""
        await self._server.start(self._settings.listen, health_listen=self._settings.health_listen)
        if self._settings.metrics_listen is not None:
            serve_metrics(
                self._settings.metrics_listen,
                CallMetrics(self._server.tallies),
                TopologyMetrics(self._watch),
                self._metrics(),
            )
        await self._pool.open()
        self._cache.start()
        tasks = {
            asyncio.create_task(self._writer.run(), name="writer"),
            asyncio.create_task(self._announce(), name="announcement"),
            asyncio.create_task(self._assign(), name="assignment"),
            asyncio.create_task(self._handoffs.run(), name="handoffs"),
            asyncio.create_task(self._join(), name="joining"),
            asyncio.create_task(self._check_cluster(), name="cluster check"),
            asyncio.create_task(self._feed_users(), name="user feed"),
            asyncio.create_task(self._measure_slots(), name="slot figures"),
            asyncio.create_task(self._sweep(), name="sweeper"),
            asyncio.create_task(self._verifier.run(), name="verifier"),
            asyncio.create_task(stop.wait(), name="stop"),
        }
        log.info("started", address=self._server.address, node=self._settings.name)
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            await self._server.drain(delay=self._settings.drain_delay, grace=self._settings.drain_grace)
            await self._writer.drained()
        except LeadershipLost:
            log.warning("another process of this node has taken over")
            return EXIT_LEADERSHIP_LOST
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._server.drain(delay=0, grace=0)
            await self._told_peers.close()
            await self._cache.close()
            await self._pool.close(timeout=2.0)
        log.info("drained")
        return 0

    def _lead_taken(self, generation: int) -> None:
        self._cache.new_writer(generation)
        # Its last commits may have an outcome that only the database knows: routers are to read anew.
        self._watches.end_all()
        self._generation = generation
        self._lead_changed.set()

    async def _publish(self, batch: Batch) -> None:
        self._feed.committed(batch.slots)
        self._user_feed.committed(batch.slots)
        await self._cache.publish(batch.slot_of_posts(), batch.posts)
        self._watches.publish(batch.posts)

    async def _announce(self) -> None:
        """Tells the topology, with each generation, where this node's writer is."""
        while True:
            await self._lead_changed.wait()
            self._lead_changed.clear()
            await self._server.set_serving(True)
            if not await self._register():
                await asyncio.sleep(RETRY_INTERVAL)
                self._lead_changed.set()

    def _metrics(self) -> NodeMetrics:
        return NodeMetrics(
            self._settings.name,
            self._writer,
            self._leadership,
            self._ownership,
            self._cache,
            self._handoffs,
            self._feed,
            self._watches,
            self._slot_figures,
            self._verifier,
        )

    async def _measure_slots(self) -> None:
        if self._settings.metrics_listen is not None:
            await self._slot_figures.run()
        await asyncio.Event().wait()

    async def _register(self) -> bool:
        registration = NodeRegistration(
            cluster_id=self._identity.cluster_id,
            name=self._settings.name,
            uuid=self._identity.node_uuid,
            address=self._settings.advertise or self._server.address,
            weight=self._settings.weight,
            generation=self._generation,
            system_identifier=self._identity.system_identifier,
        )
        try:
            await self._store.register(registration)
        except NodeSuperseded as error:
            raise LeadershipLost from error
        except TopologyUnavailable as error:
            log.warning("cannot register in the topology yet", reason=error.message)
            return False
        self._watch.refresh_soon()
        return True

    async def _check_cluster(self) -> None:
        """Ends the process should the topology turn out to be of another cluster, whether it leads or waits."""
        check_cluster(self._identity, await self._watch.at_least(0))
        await asyncio.Event().wait()

    async def _join(self) -> None:
        if self._settings.auto_rebalance:
            await self._writer.led.wait()
            await join(self._settings.name, self._watch, self._moves)
        await asyncio.Event().wait()

    async def _feed_users(self) -> None:
        if self._settings.user_side:
            with UserFeedLag(self._user_feed.lags):
                await self._user_feed.run()
        await asyncio.Event().wait()

    async def _sweep(self) -> None:
        # With the users' side switched off nobody knows what it will have to be told when it is on again.
        if self._settings.user_side and self._settings.tombstone_retention:
            reads = SlotReads(self._pool, self._ownership, self._leadership)
            sweeper = Sweeper(
                self._pool, reads, self._writer, self._user_feed.told, self._settings.tombstone_retention
            )
            await sweeper.run()
        await asyncio.Event().wait()

    async def _tell(self, node: str, rows: Rows, epochs: Sequence[int]) -> Codes:
        if node == self._settings.name:
            return await self._user_likes.apply(rows, epochs)
        return await self._told_peers.apply_user_likes(node, rows, epochs)

    async def _assign(self) -> None:
        assignment = Assignment(self._settings.name, self._watch, self._pool, self._ownership, self._writer)
        await assignment.run()


async def serve(settings: NodeSettings) -> int:
    """Runs a shard node until SIGTERM or SIGINT. Returns the exit code; raises StartFailed."""
    stop = runtime.told_to_stop()
    security = security_of(settings)
    say_how_secured(security)
    store = PostgresTopologyStore(settings.topology.get_secret_value())
    watch = TopologyWatch(store)
    moves = PostgresMoveStore(settings.topology.get_secret_value())
    try:
        identity = await _identify(settings, watch)
        return await ShardNode(settings, identity, store, watch, moves, security).run(stop)
    finally:
        await watch.stop()
        await moves.close()
        await store.close()


async def _identify(settings: NodeSettings, watch: TopologyWatch) -> Identity:
    """Who this node is. Only a new one needs the topology database for that; the others start without it."""
    watch.begin()
    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo(settings.postgres.get_secret_value(), "likering-start"), autocommit=True
        ) as connection:
            identity = await establish(connection, settings.name, watch.latest)
            if identity is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLUSTER_CHECK):
                        check_cluster(identity, await watch.at_least(0))
                return identity
            async with asyncio.timeout(settings.start_timeout):
                identity = await establish(connection, settings.name, await watch.at_least(0))
    except psycopg.OperationalError as error:
        raise StartFailed(f"cannot use the node's database: {error}") from error
    except TimeoutError as error:
        trouble = watch.trouble.message if watch.trouble else "the topology database does not answer"
        raise StartFailed(f"a new node must be told its cluster, but: {trouble}") from error
    assert identity is not None
    return identity


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``likering-node``."""
    settings = node_settings.read(sys.argv[1:] if arguments is None else arguments)
    logging.configure("likering-node", settings.log_level)
    try:
        if settings.tracing:
            tracing.start("likering-node")
        status = runtime.run(serve(settings))
    except (
        StartFailed,
        IdentityMismatch,
        MigrationError,
        ListenFailed,
        NodeRefused,
        SecurityError,
        TracingUnavailable,
        WrongCluster,
    ) as error:
        print(f"{node_settings.PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        status = EXIT_CONFIGURATION
    finally:
        tracing.stop()
    raise SystemExit(status)
