"""Spans that are made for several calls: whose child they are, what they are linked to, and when there are none."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanContext

from likering.serving import otel, tracing
from likering.serving.tracing import Span, TracingUnavailable


class Rig:
    """What makes spans, and those that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        # Nothing is sampled unless the caller says so.
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(0.0))
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = otel.Otel(provider)

    def call(self, number: int, *, sampled: bool) -> Span:
        """A call of a caller whose trace has this number."""
        traceparent = f"00-{number:032x}-{number:016x}-{sampled:02x}"
        return self.tracing.call(
            "likering.v1.LikeService/Like", (("traceparent", traceparent), ("other", b"x"))
        )

    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def rig() -> Rig:
    return Rig()


def trace_number(span: ReadableSpan) -> int:
    return context(span).trace_id


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def test_work_is_the_child_of_the_first_call_that_is_sampled_and_linked_to_the_other_ones(rig: Rig) -> None:
    calls = [rig.call(number, sampled=number in (3, 4, 5)) for number in range(1, 7)]
    rig.tracing.work("commit", [None, *calls, calls[3]], {"operations": 6}).end()
    (work,) = rig.ended()
    assert trace_number(work) == 3
    assert [link.context.trace_id for link in work.links] == [4, 5]
    assert dict(work.attributes or {}) == {"operations": 6}


def test_work_for_calls_that_are_not_sampled_leaves_nothing_and_says_so_to_the_next_process(rig: Rig) -> None:
    call = rig.call(7, sampled=False)
    work = rig.tracing.work("batch", [call], {}, remote=True)
    ((key, value),) = rig.tracing.metadata(work)
    assert (key, value.split("-")[1], value.split("-")[3]) == ("traceparent", f"{7:032x}", "00")
    assert (work.trace_id, call.trace_id) == ("", "")
    work.end()
    call.end()
    assert rig.ended() == []


def test_the_next_process_goes_on_with_the_trace(rig: Rig) -> None:
    work = rig.tracing.work("batch", [rig.call(8, sampled=True)], {}, remote=True)
    served = rig.tracing.call("likering.shard.v1.ShardService/Execute", rig.tracing.metadata(work))
    served.end()
    work.end()
    server, batch = rig.ended()
    assert trace_number(server) == trace_number(batch) == 8
    assert server.parent is not None
    assert server.parent.span_id == context(batch).span_id
    assert served.trace_id == f"{8:032x}"


def test_work_for_nobody_is_a_trace_of_its_own_that_the_sampler_decides_on(rig: Rig) -> None:
    rig.tracing.work("commit", [None], {}).end()
    assert rig.ended() == []


def test_only_what_the_server_did_wrong_is_an_error(rig: Rig) -> None:
    for code in ("OK", "INVALID_ARGUMENT", "UNAVAILABLE"):
        rig.call(9, sampled=True).end(code)
    assert [span.status.is_ok for span in rig.ended()] == [True, True, False]


def test_another_protocol_than_grpc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(TracingUnavailable, match="OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf"):
        tracing.start("test")
    assert tracing.active() is None


@pytest.fixture
def _quiet_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    yield
    tracing.stop()


@pytest.mark.usefixtures("_quiet_end")
def test_traces_are_on_from_start_to_stop_and_a_receiver_that_is_away_holds_up_no_end() -> None:
    tracing.start("test")
    active = tracing.active()
    assert active is not None
    for _ in range(1000):
        active.call("likering.v1.LikeService/Like", ()).end()
    began = monotonic()
    tracing.stop()
    assert monotonic() - began < 5
    assert tracing.active() is None
