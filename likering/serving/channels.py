"""Options of the channels between the parts of one cluster."""

from __future__ import annotations

from typing import Final, TypeAlias

ChannelOptions: TypeAlias = tuple[tuple[str, int | str], ...]

MAX_INTERNAL_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message between router and node: a batch of 3000 operations with the longest ids has 0.9 MiB."""

KEEPALIVE_SECONDS: Final = 1.0
"""How often an idle peer is asked whether it is there."""


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
