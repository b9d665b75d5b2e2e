"""Opens channels to a cluster, and says in one sentence why one does not come about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc import StatusCode

from likering.errors import LikeringError
from likering.serving.status import DETAILS_KEY, from_rpc_error

ChannelOption: TypeAlias = tuple[str, Any]
Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or a function that gives the present one; it is asked before every attempt."""
Tls: TypeAlias = grpc.ChannelCredentials | Callable[[], grpc.ChannelCredentials]
"""What TLS shows and trusts, or a function that gives the present ones, other ones only when they were renewed."""

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"

_OPTIONS: Final[tuple[ChannelOption, ...]] = (
    # Retries happen in one layer, and that is likering.client.retry.
    ("grpc.enable_retries", 0),
    # A router that restarts is back within a second; gRPC's own default waits one to two minutes in the end.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A peer that is stopped, not gone, is noticed within seconds only by all three of these.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    # The address is meant as it stands: not by way of the proxy that $http_proxy names.
    ("grpc.enable_http_proxy", 0),
    # A client made anew tries at once, whatever waits another client of the process has come to.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
)


class ServiceUnreachable(LikeringError):
    """No connection to the service."""

    code = StatusCode.UNAVAILABLE
    reason = "SERVICE_UNREACHABLE"


class ClientClosed(LikeringError):
    """The client is closed."""

    code = StatusCode.CANCELLED
    reason = "CLIENT_CLOSED"


class Target:
    """Where the service is and how to speak to it: everything that channels of both kinds have in common."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Tls | None = None,
        token: Token | None = None,
        options: Sequence[ChannelOption] = (),
    ) -> None:
        """``address``: see ``check_address``.

        ``credentials`` ask for TLS. ``token`` travels as the metadata ``authorization: Bearer …`` of each call;
        without TLS anybody on the way can read it.
        """
        self.address = address
        self._credentials = credentials
        self._token = token
        user_agent = f"likering-python/{version('likering')}"
        # Of two values for one option gRPC takes the first, so the caller's must replace ours.
        self._options = tuple(
            {**dict(_OPTIONS), "grpc.primary_user_agent": user_agent, **dict(options)}.items()
        )

    def __repr__(self) -> str:
        return f"Target({self.address!r}{', TLS' if self._credentials else ''})"

    @property
    def renewable(self) -> bool:
        """Whether ``shown`` may change."""
        return callable(self._credentials)

    def shown(self) -> grpc.ChannelCredentials | None:
        """The credentials as they are now; the same object until they are renewed."""
        return self._credentials() if callable(self._credentials) else self._credentials

    def channel(self, shown: grpc.ChannelCredentials | None) -> grpc.Channel:
        if shown is None:
            return grpc.insecure_channel(self.address, self._options)
        return grpc.secure_channel(self.address, shown, self._options)

    def aio_channel(self, shown: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        """Needs a running event loop."""
        if shown is None:
            return grpc.aio.insecure_channel(self.address, self._options)
        return grpc.aio.secure_channel(self.address, shown, self._options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else self._token()
        return (("authorization", f"Bearer {token}"),)

    def error(self, failure: grpc.RpcError) -> LikeringError:
        """The error behind a failed call; when the service was not reached, the cause in a sentence."""
        if failure.code() is StatusCode.UNAVAILABLE:
            metadata: Any = (
                failure.trailing_metadata() or ()
            )  # pairs, of another class in each kind of channel
            if not any(key == DETAILS_KEY for key, _ in metadata):
                return self.unreachable(failure.details() or "")
        return from_rpc_error(failure)

    def unreachable(self, details: str) -> ServiceUnreachable:
        """The error for gRPC's own ``details``, which stay in its metadata."""
        cause = _cause(details, self._credentials is not None)
        return ServiceUnreachable(f"No connection to {self.address}: {cause}", metadata={"details": details})

    def silent(self, seconds: float) -> ServiceUnreachable:
        """The error when nobody answered at all."""
        return ServiceUnreachable(
            f"No connection to {self.address}: no answer within {seconds:g} s; a firewall drops the packets,"
            " the process is stopped, or something other than a likering router listens there"
        )


def check_address(address: str) -> str:
    """The address, if it is host:port or a target of gRPC's (``unix:…``, ``dns:///…``); a ValueError if not."""
    if address.startswith(("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:")):
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise ValueError(f"the address is host:port, for instance localhost:50051; this is {address!r}")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"the port is a number from 1 to 65535, not {port!r} as in {address!r}")
    return address


def checked_timeout(timeout: float) -> float:
    """The timeout in seconds, if it is one; a ValueError if not."""
    if not timeout > 0:
        raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
    return timeout


def _cause(details: str, tls: bool) -> str:
    """The likely cause, from the words that gRPC and the TLS library have used across the versions we support."""
    words = details.lower().replace("_", " ")
    if "refused" in words:
        return "nothing listens there; is the router running, and is this its port?"
    if any(hint in words for hint in ("errors resolving", "lookup", "dns resolution", "name resolution")):
        return "the host name cannot be resolved"
    if "wrong version number" in words:
        return "the server does not speak TLS, and this client was given TLS credentials"
    if "certificate verify failed" in words:
        return (
            "TLS: the server's certificate is not signed by a certificate authority that this client trusts"
        )
    if "hostname verification" in words or "peer name" in words:
        return "TLS: the server's certificate is for another host name"
    if "handshake failed" in words:
        return "the TLS handshake failed; do client and server want the same kind of certificates?"
    if "failed parsing http/2" in words:
        return "what listens there is no gRPC server"
    if "failed to connect" in words and ("closed" in words or "reset" in words):
        if tls:
            return (
                "the server closed the connection at once; it may not take this client's certificate or want one,"
                " or is no gRPC server"
            )
        return (
            "the server closed the connection at once; it may want TLS (credentials=…), or is no gRPC server"
        )
    if "unreachable" in words or "no route" in words:
        return "there is no route to the host"
    if "timed out" in words or "timeout" in words:
        return "the host does not answer; a firewall may drop the packets"
    return "the connection was lost; the server stopped or was cut off"
