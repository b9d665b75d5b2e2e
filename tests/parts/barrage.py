"""Sends many messages to one method, and says whose fault each answer was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio
import psutil
from google.protobuf.descriptor import MethodDescriptor

from likering.dev.cluster import EmbeddedCluster
from likering.errors import LikeringError
from likering.serving.status import from_rpc_error, from_status
from likering.v1 import like_service_pb2 as api

IN_FLIGHT: Final = 16
TIMEOUT: Final = 30.0
STREAM_PATIENCE: Final = 0.05
"""Seconds for which a stream is read after its first response."""
CALLERS_FAULT: Final = frozenset(
    (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.ABORTED,
    )
)
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class Barrage:
    """The messages to one method.

    ``outcomes``: how often each reason was answered; ``blunders``: what is not the caller's fault, or says it is not.
    """

    def __init__(self, channel: grpc.aio.Channel, method: MethodDescriptor) -> None:
        self._method = method
        path = f"/{method.containing_service.full_name}/{method.name}"
        self._call: Any = channel.unary_stream(path) if method.server_streaming else channel.unary_unary(path)
        self.outcomes: Counter[str] = Counter()
        self.blunders: list[str] = []

    async def send(self, messages: int, make: Callable[[], bytes]) -> None:
        """So many, some of them at a time."""
        left = iter(range(messages))

        async def some() -> None:
            for _ in left:
                await self._send(make())

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))

    async def _send(self, data: bytes) -> None:
        call = self._call(data, timeout=TIMEOUT)
        try:
            if self._method.server_streaming:
                await self._read(call)
            else:
                self._judge_items(await call, data)
            self.outcomes["OK"] += 1
        except grpc.aio.AioRpcError as failed:
            error = from_rpc_error(failed)
            self.outcomes[error.reason] += 1
            self._judge(failed.code(), error, data)
        finally:
            call.cancel()

    def _judge(self, code: grpc.StatusCode, error: LikeringError | None, data: bytes) -> None:
        """``error``: as its reason says, None when there is no reason."""
        if code not in CALLERS_FAULT or error is None or error.code is not code:
            self.blunders.append(f"{code.name}, {error!r}, for {data.hex()}")

    def _judge_items(self, response: bytes, data: bytes) -> None:
        """Of a batch each item has a status of its own."""
        if self._method.output_type is api.MutateLikesResponse.DESCRIPTOR:
            for result in api.MutateLikesResponse.FromString(response).results:
                if result.HasField("status"):
                    self._judge(_CODES[result.status.code], from_status(result.status), data)

    async def _read(self, call: Any) -> None:
        """The first response, and what follows at once."""
        if await call.read() is grpc.aio.EOF:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(STREAM_PATIENCE):
                while await call.read() is not grpc.aio.EOF:
                    pass


def pids(cluster: EmbeddedCluster) -> Mapping[str, int | None]:
    """Of every process of a cluster."""
    parts = {"/".join(key): part.pid for key, part in cluster.parts.items()}
    return parts | {f"router worker {number}": pid for number, pid in enumerate(sorted(cluster.router_pids))}


def resident(cluster: EmbeddedCluster) -> Mapping[str, int]:
    """Bytes of memory, by process: of the router's and of the nodes'."""
    ours = {
        name: pid
        for name, pid in pids(cluster).items()
        if name.endswith("/node") or name.startswith("router")
    }
    return {name: psutil.Process(pid).memory_info().rss for name, pid in ours.items() if pid is not None}
