"""The production overlay: what makes it highly available."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cel import evaluate
from opentelemetry.sdk import environment_variables
from psycopg.conninfo import conninfo_to_dict

import router.settings
import shard_node.replica.settings
import shard_node.settings
from likering.dev.postgres import SETTINGS
from shard_node.database import conninfo
from tests.parts.manifests import (
    K8S,
    Manifest,
    launch,
    named,
    of_kind,
    overlay,
    production_with,
    selects,
    workloads,
)

PRODUCTION = "overlays/production"
ONLY_EMBEDDED = {
    # CloudNativePG sets these itself, or forbids them.
    *("listen_addresses", "unix_socket_directories", "log_line_prefix", "log_timezone", "timezone"),
    *("password_encryption", "log_checkpoints", "fsync", "full_page_writes"),
}
OF_THE_OPERATOR = {
    # Some of those that CloudNativePG refuses to have set.
    *(
        "archive_command",
        "archive_mode",
        "hot_standby",
        "listen_addresses",
        "port",
        "primary_conninfo",
        "ssl",
    ),
    *(
        "restart_after_crash",
        "shared_preload_libraries",
        "synchronous_standby_names",
        "synchronized_standby_slots",
    ),
}


@pytest.fixture
def manifests() -> tuple[Manifest, ...]:
    """All of the overlay."""
    return overlay(PRODUCTION)


def of_shards(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    return [
        one
        for one in of_kind(manifests, "Cluster")
        if one["spec"]["inheritedMetadata"]["labels"]["likering.dev/postgres"] == "shard"
    ]


def amount(value: str) -> float:
    """A setting of Postgres as a number, of its smallest unit here."""
    units = {"MB": 1, "GB": 1024, "ms": 0.001, "s": 1, "min": 60}
    number = value.rstrip("".join(units))
    return float(number) * units.get(value.removeprefix(number), 1)


def test_each_node_has_a_cluster_and_each_cluster_a_node(manifests: tuple[Manifest, ...]) -> None:
    """As many folders in shards/ as replicas."""
    replicas = named(manifests, "StatefulSet", "shard")["spec"]["replicas"]
    assert [one["metadata"]["name"] for one in of_shards(manifests)] == [
        f"shard-{number}-postgres" for number in range(replicas)
    ]


def test_a_commit_is_on_two_machines(manifests: tuple[Manifest, ...]) -> None:
    """And no standby that may lack one is promoted; three instances never share a machine."""
    for cluster in of_kind(manifests, "Cluster"):
        spec = cluster["spec"]
        assert spec["instances"] == 3
        assert spec["postgresql"]["synchronous"] == {
            "method": "any",
            "number": 1,
            "dataDurability": "required",
            "failoverQuorum": True,
        }
        assert spec["affinity"] == {
            "enablePodAntiAffinity": True,
            "podAntiAffinityType": "required",
            "topologyKey": "kubernetes.io/hostname",
        }
        (spread,) = spec["topologySpreadConstraints"]
        assert spread["labelSelector"] == {"matchLabels": {"cnpg.io/cluster": cluster["metadata"]["name"]}}
        assert spec["enableSuperuserAccess"] is False


def test_nodes_refuse_what_no_standby_has(
    manifests: tuple[Manifest, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their role may see their standbys; and they find the primary themselves, among several hosts."""
    shard = named(manifests, "StatefulSet", "shard")
    started = launch(manifests, shard, "node", pod="shard-1")
    for key, value in started.environment.items():
        monkeypatch.setenv(key, value)
    (tmp_path / "shard.toml").write_text("")
    settings = shard_node.settings.read(
        [argument.replace("/etc/likering", str(tmp_path)) for argument in started.arguments]
    )
    assert settings.require_synchronous_standby
    for cluster in of_shards(manifests):
        roles = {role["name"]: role for role in cluster["spec"]["managed"]["roles"]}
        assert (
            "pg_read_all_stats"
            in roles[str(conninfo_to_dict(started.environment["LIKERING_NODE_POSTGRES"])["user"])]["inRoles"]
        )
    connection = conninfo_to_dict(conninfo(settings.postgres.get_secret_value(), "test"))
    assert connection["target_session_attrs"] == "read-write"
    assert connection["host"] == "shard-1-postgres-rw,shard-1-postgres-r"


def test_servers_are_set_at_least_as_the_embedded_ones(manifests: tuple[Manifest, ...]) -> None:
    """On which everything is tested: each of their settings is there, and none is lower."""
    for cluster in of_shards(manifests):
        parameters = cluster["spec"]["postgresql"]["parameters"]
        assert OF_THE_OPERATOR.isdisjoint(parameters)
        wanted = {key: value for key, value in SETTINGS.items() if key not in ONLY_EMBEDDED}
        assert wanted.keys() <= parameters.keys()
        for key, value in wanted.items():
            if value[0].isdigit():
                assert amount(parameters[key]) >= amount(value), key
            else:
                assert parameters[key] == value
        memory = cluster["spec"]["resources"]["requests"]["memory"]
        assert amount(parameters["shared_buffers"]) * 2 <= amount(memory.replace("Gi", "GB"))


def test_everything_is_backed_up(manifests: tuple[Manifest, ...]) -> None:
    """Each Cluster archives its WAL, and has a base backup each night, into a store that keeps them for a while."""
    (store,) = of_kind(manifests, "ObjectStore")
    assert store["spec"]["retentionPolicy"] == "14d"
    backed_up = {one["spec"]["cluster"]["name"]: one["spec"] for one in of_kind(manifests, "ScheduledBackup")}
    assert backed_up.keys() == {one["metadata"]["name"] for one in of_kind(manifests, "Cluster")}
    for cluster in of_kind(manifests, "Cluster"):
        (plugin,) = cluster["spec"]["plugins"]
        assert plugin["isWALArchiver"] is True
        assert plugin["parameters"] == {"barmanObjectName": store["metadata"]["name"]}
        backup = backed_up[cluster["metadata"]["name"]]
        assert backup["pluginConfiguration"]["name"] == plugin["name"]
        assert len(backup["schedule"].split()) == 6  # seconds first


def test_pods_are_spread(manifests: tuple[Manifest, ...]) -> None:
    """Over machines, and over zones where there are some."""
    for workload in workloads(manifests):
        if workload["kind"] == "Job":
            continue
        pod = workload["spec"]["template"]
        spreads = pod["spec"]["topologySpreadConstraints"]
        assert sorted(one["topologyKey"] for one in spreads) == [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ]
        for one in spreads:
            assert selects(one["labelSelector"], pod["metadata"]["labels"])
            assert set(one.get("matchLabelKeys", ())) <= pod["metadata"]["labels"].keys()
    assert of_kind(manifests, "HorizontalPodAutoscaler")[0]["spec"]["minReplicas"] >= 3


def test_another_process_waits_for_each_node_on_another_machine(manifests: tuple[Manifest, ...]) -> None:
    """Of the same node, the same settings and the same database, at an address of its own; never replaced together."""
    first, waiting = (named(manifests, "StatefulSet", name) for name in ("shard", "shard-waiting"))
    replica = named(manifests, "StatefulSet", "replica")
    assert first["spec"]["replicas"] == waiting["spec"]["replicas"] == replica["spec"]["replicas"]
    one = launch(manifests, first, "node", pod="shard-2")
    other = launch(manifests, waiting, "node", pod="shard-waiting-2")
    assert {key for key in one.environment if one.environment[key] != other.environment[key]} == {"POD_NAME"}
    assert set(one.arguments) ^ set(other.arguments) == {
        "--advertise=shard-2.shard.likering.svc:50061",
        "--advertise=shard-waiting-2.shard.likering.svc:50061",
    }
    assert waiting["spec"]["updateStrategy"] == {"type": "OnDelete"}
    for own, others in ((first, waiting), (waiting, first)):
        (apart,) = own["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert selects(apart["labelSelector"], others["spec"]["template"]["metadata"]["labels"])
        assert apart["matchLabelKeys"] == ["apps.kubernetes.io/pod-index"]  # only those of the same number
        assert not selects(own["spec"]["selector"], others["spec"]["template"]["metadata"]["labels"])


def test_every_process_is_watched_by_prometheus(manifests: tuple[Manifest, ...]) -> None:
    """Once, by a Service that has such a port, and under the name of a job that the alerts know."""
    jobs = {}
    for monitor in of_kind(manifests, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        (service,) = (
            one
            for one in of_kind(manifests, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
            and endpoint["port"] in {port["name"] for port in one["spec"]["ports"]}
        )
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["targetLabel"] == "job"
        for workload in workloads(manifests):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            if selects({"matchLabels": service["spec"]["selector"]}, labels):
                assert workload["metadata"]["name"] not in jobs
                jobs[workload["metadata"]["name"]] = relabeling["replacement"]
    assert jobs == {
        "router": "likering-router",
        "shard": "likering-node",
        "shard-waiting": "likering-node",
        "replica": "likering-replica",
    }
    rules = (K8S / "telemetry" / "alerts.yaml").read_text()
    assert all(job in rules for job in jobs.values())


@pytest.mark.parametrize(
    ("replicas", "annotations", "admitted"),
    [
        (3, None, True),
        (4, None, True),
        (2, None, False),
        (2, {"other": "2"}, False),
        (2, {"likering.dev/drained-to": "2"}, True),
        (1, {"likering.dev/drained-to": "2"}, False),
    ],
)
def test_a_node_is_scaled_away_only_on_purpose(
    manifests: tuple[Manifest, ...], replicas: int, annotations: dict[str, str] | None, admitted: bool
) -> None:
    """From three replicas: growing is free, shrinking takes the annotation with that very number."""
    guard = named(overlay("shrink-guard"), "ValidatingAdmissionPolicy", "likering-shrink-guard")["spec"]
    (rule,) = guard["matchConstraints"]["resourceRules"]
    assert set(rule["resources"]) == {"statefulsets", "statefulsets/scale"}
    assert rule["resourceNames"] == [named(manifests, "StatefulSet", "shard")["metadata"]["name"]]
    metadata: dict[str, Any] = {"name": "shard"}
    if annotations is not None:
        metadata["annotations"] = annotations
    objects = {
        "object": {"metadata": metadata, "spec": {"replicas": replicas}},
        "oldObject": {"metadata": metadata, "spec": {"replicas": 3}},
    }
    (validation,) = guard["validations"]
    assert evaluate(validation["expression"], objects) is admitted
    assert "likering node drain shard-2" in evaluate(validation["messageExpression"], objects)


def test_the_guard_looks_after_the_overlays_namespace(manifests: tuple[Manifest, ...]) -> None:
    binding = named(overlay("shrink-guard"), "ValidatingAdmissionPolicyBinding", "likering-shrink-guard")[
        "spec"
    ]
    (namespace,) = of_kind(manifests, "Namespace")
    selector = binding["matchResources"]["namespaceSelector"]["matchLabels"]
    assert selector.items() <= namespace["metadata"]["labels"].items()
    assert binding["validationActions"] == ["Deny"]


def test_the_image_is_that_of_this_release(manifests: tuple[Manifest, ...]) -> None:
    """Every process of likering is of one image."""
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    images = {
        one["image"]
        for workload in workloads((*manifests, *overlay("operator")))
        for one in workload["spec"]["template"]["spec"]["containers"]
    }
    assert [image.rpartition(":")[2] for image in images] == [version]


@pytest.mark.parametrize(
    ("kind", "name", "process", "read"),
    [
        ("Deployment", "router", "router", router.settings.read),
        ("StatefulSet", "shard", "node", shard_node.settings.read),
        ("StatefulSet", "shard-waiting", "node", shard_node.settings.read),
        ("StatefulSet", "replica", "replica", shard_node.replica.settings.read),
    ],
)
def test_traces_are_sent_to_a_collector(
    kind: str,
    name: str,
    process: str,
    read: Callable[[Sequence[str]], Any],
    traced: tuple[Manifest, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the component: by every process, of few calls, as variables say that the SDK reads."""
    started = launch(traced, named(traced, kind, name), process, pod=f"{name}-0")
    for key, value in started.environment.items():
        monkeypatch.setenv(key, value)
    assert read([one for one in started.arguments if not one.startswith("--config")]).tracing
    of_otel = {key: value for key, value in started.environment.items() if key.startswith("OTEL_")}
    assert set(of_otel) <= {
        value for key, value in vars(environment_variables).items() if key.startswith("OTEL_")
    }
    assert float(of_otel["OTEL_TRACES_SAMPLER_ARG"]) <= 0.01
    assert of_otel["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(":4317")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ...]:
    """The overlay with the component for traces."""
    return production_with("tracing", tmp_path_factory.mktemp("tracing") / "k8s")
