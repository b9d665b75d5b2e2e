"""Who may talk to whom, by the network policies of k8s/: these connections, and no others."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.parts.manifests import (
    OVERLAYS,
    Manifest,
    containers,
    named,
    of_kind,
    overlay,
    pod_of,
    production_with,
    workloads,
)
from tests.parts.network import Pod, allowed

ROUTER, ADMIN, TOKENS, NODE, REPLICA, HEALTH = 50051, 50052, 50054, 50061, 50071, 50053
METRICS, OTLP, POSTGRES, CNPG = 9464, 4317, 5432, 8000
PORTS = (ROUTER, ADMIN, TOKENS, NODE, REPLICA, HEALTH, METRICS, OTLP, POSTGRES, CNPG, 6379, 443)

FLOWS = {
    ("caller", "router", ROUTER),
    ("operator", "router", ROUTER),
    ("operator", "router", ADMIN),
    ("operator", "topology-postgres", POSTGRES),
    ("router", "shard", NODE),
    ("router", "topology-postgres", POSTGRES),
    ("shard", "shard", NODE),
    ("shard", "shard-postgres", POSTGRES),
    ("shard", "topology-postgres", POSTGRES),
    ("shard-postgres", "shard-postgres", POSTGRES),
    ("topology", "topology-postgres", POSTGRES),
    ("prometheus", "router", METRICS),
    ("prometheus", "shard", METRICS),
}
OF_REPLICAS = {
    ("router", "replica", REPLICA),
    ("replica", "shard-postgres", POSTGRES),
    ("replica", "topology-postgres", POSTGRES),
    ("prometheus", "replica", METRICS),
}
OF_COMPONENTS = {
    "tokens": {("caller", "router", TOKENS)},
    "tracing": {(process, "collector", OTLP) for process in ("router", "shard", "replica")},
}
OF_CLOUDNATIVE_PG = {
    ("cnpg", "shard-postgres", POSTGRES),
    ("cnpg", "shard-postgres", CNPG),
    ("cnpg", "topology-postgres", POSTGRES),
    ("cnpg", "topology-postgres", CNPG),
    ("topology-postgres", "topology-postgres", POSTGRES),
    *(
        (source, target, CNPG)
        for source in ("shard-postgres", "topology-postgres")
        for target in ("shard-postgres", "topology-postgres")
    ),
    ("shard-postgres", "outside", 443),
    ("topology-postgres", "outside", 443),
}


def pods_of(manifests: tuple[Manifest, ...]) -> dict[str, Pod]:
    """By workload or database; and those of others, which have only labels."""
    pods = {
        "stranger": Pod({"app": "stranger"}),
        "stranger-elsewhere": Pod({"app": "stranger"}, here=False),
        "caller": Pod({"likering.dev/caller": "true"}, here=False),
        "operator": Pod(pod_of(named(overlay("operator"), "Job", "operator"))["metadata"]["labels"]),
        "operator-elsewhere": Pod({"likering.dev/operator": "true"}, here=False),
        "prometheus": Pod({"app.kubernetes.io/name": "prometheus"}, here=False),
        "collector": Pod({"app.kubernetes.io/name": "opentelemetry-collector"}, here=False),
        "cnpg": Pod(
            {"app.kubernetes.io/name": "cloudnative-pg"},
            here=False,
            namespace={"kubernetes.io/metadata.name": "cnpg-system"},
        ),
        "outside": Pod({}, here=False),
    }
    for workload in workloads(manifests):
        ports = {
            one["name"]: one["containerPort"]
            for found in containers(workload)
            for one in found.get("ports", ())
        }
        pods[workload["metadata"]["name"]] = Pod(pod_of(workload)["metadata"]["labels"], ports)
    for cluster in of_kind(manifests, "Cluster"):
        labels = cluster["spec"]["inheritedMetadata"]["labels"]
        pods[f"{labels['likering.dev/postgres']}-postgres"] = Pod(labels)
    return pods


def connections(manifests: tuple[Manifest, ...]) -> set[tuple[str, str, int]]:
    """Those that are allowed, of all pairs and ports."""
    pods = pods_of(manifests)
    return {
        (source, target, port)
        for (source, one), (target, other), port in itertools.product(pods.items(), pods.items(), PORTS)
        if (one.here or other.here) and allowed(manifests, one, other, port)
    }


def for_each_process(
    flows: set[tuple[str, str, int]], manifests: tuple[Manifest, ...]
) -> set[tuple[str, str, int]]:
    """Whatever a node may, so may the process that waits beside it."""
    there = pods_of(manifests)
    same = {"shard": [one for one in ("shard", "shard-waiting") if one in there]}
    return {
        (one, other, port)
        for source, target, port in flows
        for one, other in itertools.product(same.get(source, [source]), same.get(target, [target]))
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_connections_are_those_that_are_needed(name: str) -> None:
    manifests = overlay(name)
    wanted = FLOWS | (OF_CLOUDNATIVE_PG | OF_REPLICAS if of_kind(manifests, "Cluster") else set())
    assert connections(manifests) == for_each_process(wanted, manifests)


@pytest.mark.parametrize("component", OF_COMPONENTS)
def test_a_component_adds_its_own_connections_and_no_others(component: str, tmp_path: Path) -> None:
    manifests = production_with(component, tmp_path / "k8s")
    added = connections(manifests) - connections(overlay("overlays/production"))
    assert added == for_each_process(OF_COMPONENTS[component], manifests)


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_denied_that_no_other_policy_allows(name: str) -> None:
    """To every pod of the namespace, both ways; only names may be asked for."""
    assert named(overlay(name), "NetworkPolicy", "deny-all")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    dns = named(overlay(name), "NetworkPolicy", "dns")["spec"]
    assert dns["podSelector"] == {}
    assert {one["port"] for rule in dns["egress"] for one in rule["ports"]} == {53}
