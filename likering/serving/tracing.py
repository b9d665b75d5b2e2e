"""What the request path asks of traces. Off unless the process is told otherwise: then ``otel`` does it, else nothing.

A span per call, one per batch between router and node, one per commit or read of the database. Work that is done for
several calls is the child of one of them, and linked to the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Protocol, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class TracingUnavailable(Exception):
    """Traces are asked for and cannot be had. The message is for the operator."""


class Span(Protocol):
    """A piece of work that has begun."""

    @property
    def trace_id(self) -> str:
        """In hexadecimal; empty when the trace is not one that is kept."""
        ...

    def end(self, code: str = "OK") -> None:
        """It has ended, with the name of a gRPC status code or of an error."""
        ...


class Tracing(Protocol):
    """Makes spans."""

    def call(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """Of a call that this process serves: ``package.Service/Method``, within the caller's trace if it names one."""
        ...

    def work(
        self,
        name: str,
        causes: Iterable[Span | None],
        attributes: dict[str, str | int],
        *,
        remote: bool = False,
    ) -> Span:
        """Of something that is done for these spans. ``remote``: another process does it."""
        ...

    def metadata(self, span: Span) -> Metadata:
        """What tells the process that is called of the span (W3C Trace Context)."""
        ...

    def close(self) -> None:
        """Exports what is left."""
        ...


class _State:
    tracing: Tracing | None = None


def active() -> Tracing | None:
    """What makes this process' spans; None while traces are off. Asked once, when a part is made."""
    return _State.tracing


def start(service: str) -> None:
    """Turns traces on, before the parts are made. The OTEL_… variables say where they go. Raises TracingUnavailable."""
    missing = [
        name for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc") if not _found(name)
    ]
    if missing:
        raise TracingUnavailable(
            f"traces need {' and '.join(missing)}, which come with the extra otel: pip install 'likering[otel]'"
        )
    from likering.serving import otel

    _State.tracing = otel.start(service)


def stop() -> None:
    """Exports what is left, and turns traces off."""
    tracing, _State.tracing = _State.tracing, None
    if tracing is not None:
        tracing.close()


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False
