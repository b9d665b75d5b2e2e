"""Makes spans with OpenTelemetry and exports them by OTLP over gRPC, as the standard OTEL_… variables say.

The only file that imports opentelemetry, and itself imported only by ``tracing.start``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from threading import Thread
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from likering.serving.tracing import Metadata, Span, Tracing, TracingUnavailable

_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()
_KEYS: Final = frozenset(_TRACE_CONTEXT.fields)
_MOST_LINKS: Final = 127
"""What the SDK keeps of a span's links by default, less one: more would cost and be thrown away."""
_FLUSH_SECONDS: Final = 2.0
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_GOOD: Final = frozenset(
    ("OK", "NOT_FOUND", "INVALID_ARGUMENT", "OUT_OF_RANGE", "CANCELLED", "UNAUTHENTICATED")
)
"""Codes by which the server has done what it should: for the other ones the span is an error."""


class _Span:
    __slots__ = ("span",)

    def __init__(self, span: OtelSpan) -> None:
        self.span = span

    @property
    def trace_id(self) -> str:
        context = self.span.get_span_context()
        return format_trace_id(context.trace_id) if context.trace_flags.sampled else ""

    def end(self, code: str = "OK") -> None:
        if code not in _GOOD:
            self.span.set_status(Status(StatusCode.ERROR, code))
        self.span.end()


class Otel:
    """The spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("likering")

    def call(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        carrier = {key: value for key, value in metadata if key in _KEYS and isinstance(value, str)}
        context = _TRACE_CONTEXT.extract(carrier, Context())
        return _Span(
            self._tracer.start_span(method, context, kind=SpanKind.SERVER, attributes=_attributes(method))
        )

    def work(
        self,
        name: str,
        causes: Iterable[Span | None],
        attributes: dict[str, str | int],
        *,
        remote: bool = False,
    ) -> Span:
        spans = list({id(cause): cause.span for cause in causes if isinstance(cause, _Span)}.values())
        kept = [span for span in spans if span.get_span_context().trace_flags.sampled]
        if spans and not kept:
            # As the sampler would decide, without asking it.
            return _Span(NonRecordingSpan(spans[0].get_span_context()))
        return _Span(
            self._tracer.start_span(
                name,
                set_span_in_context(kept[0], Context()) if kept else Context(),
                kind=SpanKind.CLIENT if remote else SpanKind.INTERNAL,
                attributes=attributes,
                links=[Link(span.get_span_context()) for span in kept[1 : _MOST_LINKS + 1]],
            )
        )

    def metadata(self, span: Span) -> Metadata:
        assert isinstance(span, _Span)
        carrier: dict[str, str] = {}
        _TRACE_CONTEXT.inject(carrier, set_span_in_context(span.span, Context()))
        return tuple(carrier.items())

    def close(self) -> None:
        # In a thread that nobody waits for any longer: with a receiver that is away the SDK's own end took 20 s.
        ending = Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        ending.start()
        ending.join(_FLUSH_SECONDS)


def start(service: str) -> Tracing:
    """Begins to export. ``service`` is its name unless OTEL_SERVICE_NAME is another. Raises TracingUnavailable."""
    for name in _PROTOCOLS:
        if os.environ.get(name, "grpc") != "grpc":
            raise TracingUnavailable(f"{name} is {os.environ[name]}, but traces are exported by grpc only")
    named = (
        Resource.create() if "OTEL_SERVICE_NAME" in os.environ else Resource.create({"service.name": service})
    )
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Otel(provider)


@lru_cache(maxsize=256)
def _attributes(method: str) -> dict[str, str]:
    service, _, name = method.rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
