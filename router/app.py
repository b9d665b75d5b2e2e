"""The composition root of a router worker: puts the parts together, runs them, drains them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import structlog

from likering.errors import TopologyUnavailable
from likering.security.errors import SecurityError
from likering.security.setup import say_how_secured, security_of
from likering.serving import logging, runtime, tracing
from likering.serving.admission import Admission
from likering.serving.call_metrics import CallMetrics
from likering.serving.channels import Channels
from likering.serving.handlers import ServiceHandlers
from likering.serving.metrics import serve_metrics
from likering.serving.server import ListenFailed, Server, ServerSettings
from likering.serving.settings import refuse
from likering.serving.tracing import TracingUnavailable
from likering.topology.metrics import TopologyMetrics
from likering.topology.moves import MoveStore
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import TopologyStore
from likering.topology.watch import TopologyWatch
from likering.v1 import like_service_pb2
from router.access import RouterAccess, access_of
from router.admin.server import AdminServer
from router.dispatch import Dispatch
from router.lane import LaneLimits
from router.metrics import RouterMetrics
from router.seeds import SeededStore
from router.service import LikeService
from router.settings import EXIT_NO_TOPOLOGY, PROGRAM, RouterSettings, read
from router.workers import supervise

_log = structlog.get_logger(__name__)


class Router:
    """One worker of a router."""

    def __init__(
        self,
        settings: RouterSettings,
        store: TopologyStore,
        moves: MoveStore,
        channels: Channels,
        access: RouterAccess | None = None,
    ) -> None:
        """``channels``: to the nodes. ``access``: whom the ports let in; None: everybody."""
        self._settings = settings
        callers = access.callers if access is not None else None
        self._dispatch = Dispatch(
            LaneLimits(
                batch_operations=settings.batch_operations,
                batches_in_flight=settings.batches_in_flight,
                queued_operations=settings.queued_operations,
            ),
            channels,
        )
        self._watch = TopologyWatch(store, self._dispatch.use)
        self._dispatch.source = self._watch
        handlers = ServiceHandlers(
            like_service_pb2.DESCRIPTOR.services_by_name["LikeService"],
            LikeService(self._dispatch),
            default_deadline=settings.default_deadline,
            slow_call=settings.slow_call,
            nul_for_undecodable=True,
            admission=Admission(),
            guard=callers.guard if callers is not None else None,
        )
        self._server = Server(
            [handlers],
            ServerSettings(
                max_concurrent_streams=settings.max_concurrent_streams,
                max_connection_age=settings.max_connection_age,
                shared_port=settings.worker_index is not None,
            ),
            callers,
        )
        # Of several workers one: operators call rarely, and a port of its own need not be shared.
        serves_operators = settings.admin_listen and settings.worker_index in (None, 0)
        operators = access.operators if access is not None else None
        self._admin = (
            AdminServer(store, moves, self._watch, channels, operators) if serves_operators else None
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop`` is set. Raises ListenFailed, or TopologyUnavailable when there is none in time."""
        await self._server.start(
            self._settings.listen,
            token_listen=self._settings.token_listen,
            health_listen=self._settings.health_listen if self._settings.worker_index in (None, 0) else None,
        )
        self._serve_metrics()
        _log.info(
            "listening", address=self._server.address, worker=self._settings.worker_index, pid=os.getpid()
        )
        starting = asyncio.create_task(self._watch.start(self._settings.start_timeout), name="first topology")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await self._start_admin()
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await self._server.set_serving(True)
                if self._admin is not None:
                    await self._admin.set_serving(True)
                _log.info("serving", address=self._server.address)
                await stopping
            _log.info("draining", address=self._server.address)
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(
                *(
                    server.drain(delay=self._settings.drain_delay, grace=self._settings.drain_grace)
                    for server in (self._server, self._admin)
                    if server is not None
                )
            )
            await self._dispatch.close()
            await self._watch.stop()
        _log.info("drained")

    def _serve_metrics(self) -> None:
        listen = self._settings.metrics_listen
        if listen is None:
            return
        host, _, port = listen.rpartition(":")
        if port != "0":
            listen = f"{host}:{int(port) + (self._settings.worker_index or 0)}"
        tallies = self._server.tallies + (self._admin.tallies if self._admin is not None else [])
        serve_metrics(
            listen, CallMetrics(tallies), RouterMetrics(self._dispatch), TopologyMetrics(self._watch)
        )

    async def _start_admin(self) -> None:
        if self._admin is not None and self._settings.admin_listen is not None:
            await self._admin.start(self._settings.admin_listen)
            _log.info("listening for operators", address=self._admin.address)


async def serve(settings: RouterSettings) -> None:
    """Runs one worker until SIGTERM or SIGINT, or until its parent is gone."""
    stop = runtime.told_to_stop()
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    if settings.worker_index is not None:
        # The parent holds the other end of this pipe and never writes: it ends when the parent does, however.
        loop.add_reader(sys.stdin, orphaned)
    try:
        store: TopologyStore = PostgresTopologyStore(settings.topology.get_secret_value())
        moves = PostgresMoveStore(settings.topology.get_secret_value())
    except ValueError as error:
        refuse(PROGRAM, f"--topology: {error}")
    try:
        security = security_of(settings)
        access = access_of(settings, security)
    except SecurityError as error:
        refuse(PROGRAM, str(error))
    say_how_secured(security)
    channels = Channels(security.certificates if security is not None else None)
    if settings.seeds:
        store = SeededStore(store, settings.seeds, channels)
    try:
        await Router(settings, store, moves, channels, access).run(stop)
    finally:
        await moves.close()
        await store.close()


def run_worker(settings: RouterSettings) -> int:
    """Runs one worker in this process. Returns the exit code."""
    try:
        if settings.tracing:
            tracing.start(PROGRAM)
        runtime.run(serve(settings))
    except (ListenFailed, TracingUnavailable) as error:
        refuse(PROGRAM, str(error))
    except TopologyUnavailable as error:
        print(f"{PROGRAM}: {error.message}", file=sys.stderr)  # noqa: T201 - for the one who started it
        return EXIT_NO_TOPOLOGY
    finally:
        tracing.stop()
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``likering-router``."""
    settings = read(sys.argv[1:] if arguments is None else arguments)
    logging.configure(PROGRAM, settings.log_level)
    if settings.workers > 1 and settings.worker_index is None:
        status = asyncio.run(supervise(settings))
    else:
        status = run_worker(settings)
    raise SystemExit(status)
