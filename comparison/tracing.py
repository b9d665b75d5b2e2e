"""What traces cost: the CPU of router and node per Like, without them, with one call of a hundred, and with every call.

Run it as ``python -m comparison.tracing``: each mode once a round, on an embedded cluster of one node. Spans go to a
receiver in this process, whose own CPU does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from likering.bench.cpu import cpu_seconds
from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2 as api
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

MODES: Mapping[str, Mapping[str, str]] = {
    "off": {"LIKERING_ROUTER_TRACING": "false", "LIKERING_NODE_TRACING": "false"},
    "1 % of the calls": {
        "LIKERING_ROUTER_TRACING": "true",
        "LIKERING_NODE_TRACING": "true",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    },
    "every call": {
        "LIKERING_ROUTER_TRACING": "true",
        "LIKERING_NODE_TRACING": "true",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    },
}
CALLERS = 64
WARM_UP = 2.0
"""Seconds before it counts."""


class Figure(NamedTuple):
    """Of one mode in one round."""

    calls_per_second: float
    cpu_us: float
    """Of router and node together, per call."""


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts spans."""

    def __init__(self) -> None:
        self.spans = 0

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - a gRPC method
        self.spans += sum(
            len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans
        )
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving(receiver: Receiver) -> Iterator[str]:
    """Gives its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # has no types
    add(receiver, server)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(1).wait()


async def likes(address: str, seconds: float, pids: Mapping[str, list[int]]) -> Figure:
    """So many callers, one Like after the other each."""
    done = 0

    async def call(stub: LikeServiceAsyncStub, caller: int, until: float) -> None:
        nonlocal done
        number = 0
        while time.monotonic() < until:
            number += 1
            request = api.LikeRequest(user_id=f"{until}-{caller}-{number}", post_id=f"p{number % 5000}")
            request.intent_time.GetCurrentTime()  # so that it is tried again where a node has just begun
            await stub.Like(request)
            done += 1

    async with grpc.aio.insecure_channel(address) as channel:
        stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))

        async def run(seconds: float) -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(*(call(stub, caller, until) for caller in range(CALLERS)))

        await run(WARM_UP)
        done, cpu, began = 0, sum(cpu_seconds(pids).values()), time.monotonic()
        await run(seconds)
        return Figure(done / (time.monotonic() - began), (sum(cpu_seconds(pids).values()) - cpu) / done * 1e6)


def measure(directory: Path, mode: str, seconds: float, receiver: str) -> Figure:
    """One mode, on a cluster that is started for it."""
    os.environ.update({**MODES[mode], "OTEL_EXPORTER_OTLP_ENDPOINT": receiver})
    with EmbeddedCluster(directory, nodes=1) as cluster:
        node = cluster.parts["a", "node"].pid
        assert node is not None
        return asyncio.run(likes(cluster.address, seconds, {"router": cluster.router_pids, "node": [node]}))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    given = parser.parse_args()
    figures: dict[str, list[Figure]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(given.rounds):
            for mode, found in figures.items():
                receiver = Receiver()
                with receiving(receiver) as address:
                    found.append(measure(Path(directory) / "cluster", mode, given.seconds, address))
                if bool(receiver.spans) is (mode == "off"):
                    raise SystemExit(f"{receiver.spans} spans came with traces: {mode}")
    print(
        "| traces | calls/s | router + node CPU per Like, µs | ÷ off, in the same round |\n|---|---|---|---|"
    )
    for mode, found in figures.items():
        ratios = [figure.cpu_us / off.cpu_us for figure, off in zip(found, figures["off"], strict=True)]
        print(
            f"| {mode} | {median(figure.calls_per_second for figure in found):,.0f} |"
            f" {_spread([figure.cpu_us for figure in found], 0)} | {_spread(ratios, 2)} |"
        )


def _spread(values: Sequence[float], digits: int) -> str:
    """Median, lowest and highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
