"""What traces cost: the CPU of router and node per Like, without them, with one call of a hundred, and with every call.

Run it as ``python -m comparison.tracing``: each mode once a round, on an embedded cluster of one node. Spans go to a
receiver in this process, whose own CPU does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from comparison.per_like import Figure, likes, processes, table
from likering.dev.cluster import EmbeddedCluster

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


def measure(directory: Path, mode: str, seconds: float, receiver: str) -> Figure:
    """One mode, on a cluster that is started for it."""
    os.environ.update({**MODES[mode], "OTEL_EXPORTER_OTLP_ENDPOINT": receiver})
    with EmbeddedCluster(directory, nodes=1) as cluster:
        return asyncio.run(put_load_on(cluster, seconds))


async def put_load_on(cluster: EmbeddedCluster, seconds: float) -> Figure:
    """By callers on one connection."""
    return await likes(grpc.aio.insecure_channel(cluster.address), seconds, processes(cluster))


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
    print(table("traces", figures))


if __name__ == "__main__":
    main()
