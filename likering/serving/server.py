"""A grpc.aio server as every process of likering runs it: limits, health, reflection, start and drain."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio
import structlog
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from likering.security.access import Access
from likering.serving import health
from likering.serving.call_metrics import CallTally
from likering.serving.handlers import ServiceHandlers
from likering.serving.health import Health, HealthHandlers
from likering.serving.reflection import Reflection

_log = structlog.get_logger(__name__)

MAX_METADATA_BYTES: Final = 8 * 1024

_MOST_CONNECTIONS: Final = 20_000
_SHARES: Final = 6
"""Into which a process' open files are divided: one for each of four ports, the others for databases and peers."""

_UNHANDLED_FOR: Final = 2.0
"""Seconds for which a drain bears calls that no handler has: responses on their way, and calls that none will get."""


class ListenFailed(Exception):
    """The address cannot be listened on. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What differs between servers. Times are in seconds.

    ``max_concurrent_streams`` is per connection. It bounds what a connection that opens and resets streams ("rapid
    reset") takes from the others, since gRPC counts a stream until its handler is gone. For the same reason it must be
    well above the calls that one client has in flight: those above it are refused, as UNAVAILABLE.
    docs/decisions has what was measured.
    ``max_connection_age``: clients are asked to connect anew after about this time (gRPC spreads it by 10 %), so that
    they find servers that were added since; calls in progress go on. None: never.
    ``shared_port``: other processes listen on the same port (SO_REUSEPORT).
    """

    max_message_bytes: int = 1024 * 1024
    max_concurrent_streams: int = 1536
    max_connection_age: float | None = None
    max_connection_age_grace: float = 30.0
    shared_port: bool = False


_OF_PROBES: Final = ServerSettings(max_message_bytes=1024, max_concurrent_streams=100)
"""Of the port that takes no credential and knows health alone."""


class Server:
    """One listening server. ``start``, then ``set_serving`` as often as it changes, then ``drain`` once."""

    def __init__(
        self,
        services: Sequence[ServiceHandlers],
        settings: ServerSettings | None = None,
        access: Access | None = None,
    ) -> None:
        """``access``: whom it lets in, and by what it shows who it is; None: everybody, without TLS.

        The services come with the guard of that access.
        """
        settings = settings or ServerSettings()
        self._services = tuple(services)
        self._access = access
        self._health = Health([service.service_name for service in services])
        self._server = grpc.aio.server(options=_options(settings))
        # In the order in which gRPC asks them: those with the traffic first.
        self._server.add_generic_rpc_handlers(self._services)
        guard = access.guard if access is not None else None
        self._server.add_generic_rpc_handlers((HealthHandlers(self._health, guard),))
        add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call] # its stubs leave it out
            Reflection(
                [
                    *(service.service_name for service in services),
                    health.SERVICE.full_name,
                    reflection.SERVICE_NAME,
                ],
                guard,
            ),
            self._server,
        )
        self._probes: grpc.aio.Server | None = None
        self.address = ""
        """host:port, with the port that was bound; empty before the start."""
        self.token_address = ""
        """The same of the port for callers with tokens."""
        self.health_address = ""
        """The same of the port for probes."""

    def __repr__(self) -> str:
        return f"<Server {self.address or 'not started'} {', '.join(map(repr, self._services))}>"

    @property
    def tallies(self) -> list[CallTally]:
        """What the calls of all services came to, by method."""
        return [tally for service in self._services for tally in service.tallies]

    async def start(
        self, listen: str, *, token_listen: str | None = None, health_listen: str | None = None
    ) -> None:
        """Listens on ``host:port`` (port 0: any free one). Health says NOT_SERVING. Raises ListenFailed.

        ``token_listen``: also there, with TLS for callers that have tokens and no certificates. ``health_listen``:
        there is health and nothing else, without TLS, for probes that know none.
        """
        await self._health.set_serving(False)
        self.address = _listen(self._server, listen, self._access)
        if token_listen is not None:
            self.token_address = _listen(
                self._server, token_listen, self._access, callers_have_certificates=False
            )
        await self._server.start()
        if health_listen is not None:
            self._probes = grpc.aio.server(options=_options(_OF_PROBES))
            self._probes.add_generic_rpc_handlers((HealthHandlers(self._health),))
            self.health_address = _listen(self._probes, health_listen, None)
            await self._probes.start()

    async def set_serving(self, serving: bool) -> None:
        """What health says of this server and its services."""
        await self._health.set_serving(serving)

    async def drain(self, *, delay: float, grace: float) -> None:
        """Stops without failing a call in progress.

        Health says NOT_SERVING for ``delay`` seconds, in which callers turn away; then streams end, no new call is
        taken, and those in progress have ``grace`` seconds.
        """
        await self._health.drain()
        await asyncio.sleep(delay)
        self._health.end_watches()
        for service in self._services:
            service.end_streams()
        if self._probes is not None:
            await self._probes.stop(0)
        await self._stop(grace)
        # stop() has been seen to return while handlers still ran their last lines.
        try:
            async with asyncio.timeout(grace):
                await self._idle()
        except TimeoutError:
            _log.warning("calls were cut off", calls=self._in_progress)

    @property
    def _in_progress(self) -> int:
        return sum(service.in_progress for service in self._services)

    async def _idle(self) -> None:
        for service in self._services:
            await service.idle()

    async def _stop(self, grace: float) -> None:
        """Waits for the calls in progress, but not for calls that no handler has.

        gRPC may take a call in at the instant of the shutdown and hand it to nobody (docs/decisions/0008); a caller
        may also begin one and never send its request. Both would hold up the end until their deadline; cut off, they
        are UNAVAILABLE, and can be sent elsewhere.
        """
        stopping = asyncio.create_task(self._server.stop(grace), name="stop")
        while not stopping.done():
            idle = asyncio.create_task(self._idle(), name="idle")
            await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            await asyncio.wait({stopping}, timeout=_UNHANDLED_FOR)
            if not stopping.done() and not self._in_progress:
                _log.warning("calls that no handler has were cut off")
                await self._server.stop(0)
        await stopping


def _listen(
    server: grpc.aio.Server, listen: str, access: Access | None, *, callers_have_certificates: bool = True
) -> str:
    """Adds a port; gives host:port with the port that was bound. Raises ListenFailed."""
    try:
        if access is None:
            port = server.add_insecure_port(listen)
        else:
            credentials = access.certificates.for_server(callers_have_certificates=callers_have_certificates)
            port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ListenFailed(
            f"Cannot listen on {listen}: the port is taken, or the address is not one of this machine"
        ) from error
    return f"{listen.rpartition(':')[0]}:{port}"


def _most_connections() -> int:
    """Of one port; those above it are hung up on. gRPC aborts the process that has no descriptor left for one more."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, files // _SHARES)


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # Calls that were not taken in yet, of all connections: above the first number gRPC cancels some at random.
        ("grpc.server.max_pending_requests", 16_384),
        ("grpc.server.max_pending_requests_hard_limit", 32_768),
        # Routers ping idle nodes each second; a server that forbids it answers "too many pings" and hangs up.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 400),
        # And looks after its own side: a caller that was cut off is noticed.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Whoever connects and does not get through TLS and HTTP/2 in this time is hung up on; gRPC's default is 120 s.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_allowed_incoming_connections", _most_connections()),
        ("grpc.so_reuseport", int(settings.shared_port)),
    ]
    if settings.max_connection_age is not None:
        options += [
            ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace * 1000)),
        ]
    return options
