"""Every metric that the docs, the alerts and the dashboard name is told by real processes, and no other one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from prometheus_client.metrics_core import Metric

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.dev.ports import free_port
from tests.parts.metrics import address_in, families
from tests.parts.replica import replica_of
from tests.parts.telemetry_files import ALERTS, dashboard_expressions, documented, series_named

pytestmark = pytest.mark.timeout(180)

OURS = ("likering_", "grpc_server_")
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
    """Each metric, its type, and who tells it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for process, metrics in told.items():
        for name, family in metrics.items():
            found.setdefault(name, (family.type, set()))[1].add(process)
    assert found == documented()


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


def test_labels_that_alerts_choose_by_are_there(told: Mapping[str, Mapping[str, Metric]]) -> None:
    router, node = told["router"], told["node"]
    like = {"grpc_type": "unary", "grpc_service": "likering.v1.LikeService", "grpc_method": "Like"}
    assert like in [sample.labels for sample in router["grpc_server_started"].samples]
    assert {sample.labels["node"] for sample in router["likering_router_node_connected"].samples} == {"a"}
    assert {sample.labels["node"] for sample in node["likering_writer_leads"].samples} == {"a"}
    assert {sample.labels["destination"] for sample in node["likering_user_feed_lag_seconds"].samples} == {
        "a"
    }
    states = {sample.labels["state"] for sample in node["likering_moves"].samples}
    assert {"copying", "catching_up", "freezing", "committed", "activating"} <= states
