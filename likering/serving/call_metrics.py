"""What the calls of a server came to, under the names that every gRPC server's metrics have: ``grpc_server_*``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from likering.serving.distribution import Distribution

_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class CallTally:
    """The calls of one method. Counting is a few additions; names and labels are put on when somebody looks."""

    __slots__ = ("codes", "labels", "seconds", "sent", "started")

    def __init__(self, service: str, method: str, *, streams: bool) -> None:
        self.labels = ("server_stream" if streams else "unary", service, method)
        self.started = 0
        self.sent = 0
        """Messages."""
        self.codes: Counter[str] = Counter()
        """Calls that have ended, by the name of their status code."""
        self.seconds = Distribution()

    def __repr__(self) -> str:
        return f"<CallTally {'/'.join(self.labels[1:])}: {self.started} begun, {dict(self.codes)}>"

    def ended(self, code: str, seconds: float) -> None:
        """A call has ended."""
        self.codes[code] += 1
        self.seconds.add(seconds)


class CallMetrics(Collector):
    """The tallies of all methods of a process."""

    def __init__(self, tallies: Iterable[CallTally]) -> None:
        self._tallies: Sequence[CallTally] = tuple(tallies)

    def collect(self) -> Iterator[Metric]:
        started = CounterMetricFamily("grpc_server_started", "Calls that have begun", labels=_LABELS)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that have ended, by status code", labels=(*_LABELS, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Requests received", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Responses sent", labels=_LABELS)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "How long calls took, from their request to their end",
            labels=_LABELS,
        )
        for tally in self._tallies:
            started.add_metric(tally.labels, tally.started)
            received.add_metric(tally.labels, tally.started)  # no method takes a stream
            sent.add_metric(tally.labels, tally.sent)
            codes = dict(tally.codes)
            if codes:  # the buckets of methods that nobody calls would be most of all series
                tally.seconds.tell(seconds, tally.labels)
            for code, calls in codes.items():
                handled.add_metric((*tally.labels, code), calls)
        yield from (started, handled, received, sent, seconds)
