"""The metrics of a router worker: what its lanes have counted, put into families when somebody looks.

docs/telemetry.md has the table of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.dispatch import Dispatch

_TRAFFIC: Final = ("writes", "cached", "strong", "stale_ok")
"""As in ``operations.TRAFFIC``."""


class RouterMetrics(Collector):
    """Of one worker. Asked by a thread of its own, it reads what the event loop's parts hold at that moment."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def collect(self) -> Iterator[Metric]:
        dispatch = self._dispatch
        operations = HistogramMetricFamily(
            "likering_router_batch_operations", "Operations of one batch to a node", labels=["traffic"]
        )
        seconds = HistogramMetricFamily(
            "likering_router_batch_seconds", "How long nodes took to answer a batch", labels=["traffic"]
        )
        queue = HistogramMetricFamily(
            "likering_router_queue_seconds",
            "How long the first operation of a batch waited",
            labels=["traffic"],
        )
        fates: Counter[tuple[str, str]] = Counter()
        for traffic, tally in zip(_TRAFFIC, dispatch.tallies, strict=True):
            tally.batch_operations.tell(operations, [traffic])
            tally.batch_seconds.tell(seconds, [traffic])
            tally.queue_seconds.tell(queue, [traffic])
            fates.update(dict(tally.fates))
        yield from (operations, seconds, queue)
        batches = CounterMetricFamily(
            "likering_router_batches",
            "Batches sent to a node, by what became of them",
            labels=["node", "fate"],
        )
        for (node, fate), count in fates.items():
            batches.add_metric([node, fate], count)
        yield batches
        connected = GaugeMetricFamily(
            "likering_router_node_connected", "1 while the node's connection stands", labels=["node"]
        )
        for name, stands in dispatch.connected.items():
            connected.add_metric([name], int(stands))
        yield connected
        yield GaugeMetricFamily(
            "likering_router_queued_operations",
            "Operations that wait to be sent",
            value=dispatch.queued_operations,
        )
        yield GaugeMetricFamily(
            "likering_router_waiting_operations",
            "Operations that wait for a change, of the topology or of a connection, before they are sent again",
            value=dispatch.waiting_operations,
        )
