"""An OpenTelemetry collector on this machine: a real OTLP receiver that keeps the spans it gets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Kept(NamedTuple):
    """A span, and the name of the service that it is of."""

    service: str
    span: Span

    def attribute(self, key: str) -> str:
        """The text of an attribute; empty when there is none."""
        return next((one.value.string_value for one in self.span.attributes if one.key == key), "")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Its ``address`` is for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.kept: list[Kept] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            service = next(
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            )
            for scope in resource.scope_spans:
                self.kept.extend(Kept(service, span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[Kept]:
        """What has come of one trace so far."""
        return [one for one in list(self.kept) if one.span.trace_id.hex() == trace_id]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    collector = Collector(f"http://127.0.0.1:{port}")
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # has no types
    add(collector, server)
    server.start()
    try:
        yield collector
    finally:
        server.stop(1).wait()
