"""The channels between the parts of one cluster."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

import grpc
import grpc.aio

from likering.security.certificates import Certificates

ChannelOptions: TypeAlias = tuple[tuple[str, int | str], ...]

MAX_INTERNAL_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message between router and node: a batch of 3000 operations with the longest ids has 0.9 MiB."""

KEEPALIVE_SECONDS: Final = 1.0
"""How often an idle peer is asked whether it is there."""

NOT_LET_IN: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""Codes of a node that does not take the certificate of this process. They are nothing to tell a caller, who has shown
another credential: to the caller the node is not available.
"""

RENEWAL_GRACE: Final = 30.0
"""Seconds that calls on a channel have to end when another one has taken its place."""


class Channels:
    """Opens channels to nodes: with the certificate of this process, or plain ones where it has none."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self._certificates = certificates

    def __repr__(self) -> str:
        return f"<Channels {'plain' if self._certificates is None else repr(self._certificates)}>"

    @property
    def renewable(self) -> bool:
        """Whether ``version`` can grow."""
        return self._certificates is not None

    @property
    def version(self) -> int:
        """Grows when the certificate was renewed: channels that were opened before show the old one."""
        return 0 if self._certificates is None else self._certificates.version

    def open(self, address: str) -> grpc.aio.Channel:
        """A channel that shows the certificate as it is now. Needs a running event loop."""
        if self._certificates is None:
            return grpc.aio.insecure_channel(address, options=internal_channel_options())
        return grpc.aio.secure_channel(
            address, self._certificates.for_channel(), options=internal_channel_options()
        )


class KeptChannels:
    """Channels by key, each opened when it is first asked for, and anew when the certificate was renewed."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._kept: dict[str, tuple[str, int, grpc.aio.Channel]] = {}
        self._leaving: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def to(self, key: str, address: str) -> grpc.aio.Channel:
        """The channel of a key, which leads to ``address``. One that is replaced lets its calls end."""
        version = self._channels.version
        kept = self._kept.get(key)
        if kept is not None:
            if kept[:2] == (address, version):
                return kept[2]
            task = asyncio.get_running_loop().create_task(kept[2].close(grace=RENEWAL_GRACE))
            self._leaving[task] = kept[2]
            task.add_done_callback(lambda task: self._leaving.pop(task, None))
        channel = self._channels.open(address)
        self._kept[key] = (address, version, channel)
        return channel

    async def close(self) -> None:
        """Ends all connections."""
        channels = [channel for _, _, channel in self._kept.values()]
        self._kept.clear()
        for task, channel in self._leaving.items():
            task.cancel()
            channels.append(channel)
        for channel in channels:
            await channel.close()


def internal_channel_options() -> ChannelOptions:
    """Of a channel from a router or a node to a node.

    A peer that is stopped or cut off is noticed after about 1.1 s: without ``ping_timeout`` it took 24 s, whatever
    the keepalive times said. A connection that broke is tried again after 100 ms, later each second.
    """
    return (
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", 500),
        ("grpc.http2.ping_timeout_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also the patience of one connection attempt, which is 20 s by default.
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.max_send_message_length", MAX_INTERNAL_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_INTERNAL_MESSAGE_BYTES),
        # A node's address is meant as it stands: not by way of the proxy that $http_proxy names.
        ("grpc.enable_http_proxy", 0),
        # A channel made anew is a connection made anew, and not the old one taken from a shared pool.
        ("grpc.use_local_subchannel_pool", 1),
        # Whether to send again is decided in one place, the router's dispatch, and not by gRPC as well.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
    )
