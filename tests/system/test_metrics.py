"""Every metric that the docs, the alerts and the dashboard name is told by real processes, and no other one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import grpc
import psycopg
import pytest
from prometheus_client.metrics_core import Metric

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.dev.ports import free_port
from likering.topology.moves import MoveState
from router.fragments import Fate
from tests.parts.metrics import address_in, families
from tests.parts.replica import replica_of
from tests.parts.telemetry_files import (
    ALERTS,
    alert_expressions,
    chosen_by,
    dashboard_expressions,
    documented,
    grouped_by,
    legends,
    series_named,
)

pytestmark = pytest.mark.timeout(180)

OURS = ("likering_", "grpc_server_")
OF_PROMETHEUS = frozenset(("job", "instance", "le"))
"""Labels that it puts on by itself, and that of buckets."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Mapping[str, Metric]]]:
    """What a router, a node and a replica tell: kind of process → metric → family."""
    directory = tmp_path_factory.mktemp("metrics")
    with pytest.MonkeyPatch.context() as patch:
        for prefix in ("LIKERING_NODE_", "LIKERING_ROUTER_"):
            patch.setenv(f"{prefix}METRICS_LISTEN", "127.0.0.1:0")
        patch.setenv("LIKERING_NODE_REQUIRE_SYNCHRONOUS_STANDBY", "true")
        metrics = f"127.0.0.1:{free_port()}"
        with (
            EmbeddedCluster(directory / "cluster", nodes=["a"], slots=8) as cluster,
            replica_of(cluster, "a", directory, "--metrics-listen", metrics, synchronous=True),
            LikeTracker(cluster.address) as likes,
        ):
            likes.like("u", "p")
            logs = cluster.directory / "logs"
            yield {
                "router": ours(address_in(logs / "router.log")),
                "node": ours(address_in(logs / "a-node.log")),
                "replica": ours(metrics),
            }


def ours(address: str) -> Mapping[str, Metric]:
    return {family.name: family for family in families(address) if family.name.startswith(OURS)}


def test_the_docs_table_is_what_processes_tell(told: Mapping[str, Mapping[str, Metric]]) -> None:
    """Each metric, its type and labels, and who tells it."""
    pages = documented()
    found: dict[str, tuple[str, set[str]]] = {}
    for process, metrics in told.items():
        for name, family in metrics.items():
            found.setdefault(name, (family.type, set()))[1].add(process)
            for sample in family.samples:
                assert sample.labels.keys() - {"le"} == pages[name].labels, name
    assert found == {name: (row.kind, set(row.of)) for name, row in pages.items()}


def test_alerts_and_dashboard_name_nothing_that_is_not_told(told: Mapping[str, Mapping[str, Metric]]) -> None:
    series = {
        f"{name}{suffix}"
        for metrics in told.values()
        for name, family in metrics.items()
        for suffix in SUFFIXES[family.type]
    }
    named = series_named(ALERTS.read_text()) | series_named("\n".join(dashboard_expressions()))
    assert len(named) > 20
    assert named <= series


def test_expressions_choose_and_group_by_labels_that_their_series_have() -> None:
    """A label that no series has gives an empty panel, or an alert that never rings; nothing else would tell."""
    labels = {
        f"{name}{suffix}": row.labels | OF_PROMETHEUS
        for name, row in documented().items()
        for suffix in SUFFIXES[row.kind]
    }
    expressions = [*alert_expressions(), *dashboard_expressions()]
    chosen = [one for expression in expressions for one in chosen_by(expression)]
    assert len(chosen) > 20
    for series, label, _ in chosen:
        assert label in labels[series], f"{series} has no label {label}"
    for expression in expressions:
        known = OF_PROMETHEUS.union(*(labels[series] for series in series_named(expression)))
        assert grouped_by(expression) <= known, expression
    for expression, legend in legends():
        known = OF_PROMETHEUS.union(*(labels[series] for series in series_named(expression)))
        assert legend <= (grouped_by(expression) or known), f"{expression} has no {legend}"


def test_values_that_expressions_choose_by_are_told(told: Mapping[str, Mapping[str, Metric]]) -> None:
    """By real processes, or else they are names of states and codes in the code."""
    values: dict[str, set[str]] = {
        "grpc_code": {code.name for code in grpc.StatusCode},
        "state": {state.value for state in MoveState},
        "fate": {fate.name.lower() for fate in Fate},
        "error": {psycopg.errors.DiskFull.__name__},
    }
    for metrics in told.values():
        for family in metrics.values():
            for sample in family.samples:
                for label, value in sample.labels.items():
                    values.setdefault(label, set()).add(value)
    for expression in (*alert_expressions(), *dashboard_expressions()):
        for series, label, value in chosen_by(expression):
            assert value in values[label], f"{series} is never told with {label}={value}"
