"""What a call with some credential comes to: code and reason."""

from __future__ import annotations

from typing import Any, Final

import grpc

from likering.serving.status import from_rpc_error

OK: Final = ""
NOBODY: Final = "UNAUTHENTICATED NO_CREDENTIAL"
NOT_ALLOWED: Final = "PERMISSION_DENIED ROLE_MISSING"
NO_OPERATOR: Final = "PERMISSION_DENIED NOT_AN_OPERATOR"
OTHER_USER: Final = "PERMISSION_DENIED OTHER_USER"
NO_HANDSHAKE: Final = "UNAVAILABLE SHARD_UNAVAILABLE"


def channel_to(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """With a connection of its own; without credentials in plaintext."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def outcome(
    channel: grpc.Channel, method: str, data: bytes, token: str = "", *, streams: bool, seconds: float = 20
) -> str:
    """Code and reason of a call, given as its path and the bytes of its request; nothing if it succeeds."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    made: Any = channel.unary_stream(method) if streams else channel.unary_unary(method)
    try:
        given = made(data, timeout=seconds, metadata=metadata)
        if streams:
            list(given)
    except grpc.RpcError as failure:
        error = from_rpc_error(failure)
        assert "127.0.0.1" not in error.message
        return f"{failure.code().name} {error.reason}"
    return OK


def answer(
    address: str,
    call: tuple[str, Any],
    credentials: grpc.ChannelCredentials | None,
    token: str = "",
    *,
    streams: bool = False,
    seconds: float = 20,
) -> str:
    """The same on a connection of its own, of a request."""
    method, request = call
    with channel_to(address, credentials) as channel:
        return outcome(channel, method, request.SerializeToString(), token, streams=streams, seconds=seconds)
