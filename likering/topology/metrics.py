"""The metrics of whoever watches the topology: how new what it knows is."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from likering.topology.watch import TopologyWatch


class TopologyMetrics(Collector):
    """Of one process."""

    def __init__(self, watch: TopologyWatch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        latest = self._watch.latest
        yield GaugeMetricFamily(
            "likering_topology_version",
            "Version of the topology that this process acts on; 0 before the first",
            value=latest.version if latest else 0,
        )
        yield GaugeMetricFamily(
            "likering_topology_reachable",
            "1 while the topology database answers",
            value=int(latest is not None and self._watch.trouble is None),
        )
