"""Who may talk to whom, by the network policies of k8s/: these connections, and no others."""

from __future__ import annotations

import itertools

import pytest

from tests.parts.manifests import OVERLAYS, Manifest, containers, named, of_kind, overlay, pod_of, workloads
from tests.parts.network import Pod, allowed

ROUTER, ADMIN, NODE, METRICS, HEALTH, POSTGRES, CNPG = 50051, 50052, 50061, 9464, 50053, 5432, 8000
PORTS = (ROUTER, ADMIN, NODE, METRICS, HEALTH, POSTGRES, CNPG, 6379, 443)

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
    ("prometheus", "shard", METRICS),
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


@pytest.mark.parametrize("name", OVERLAYS)
def test_connections_are_those_that_are_needed(name: str) -> None:
    """Of all pairs and ports."""
    manifests = overlay(name)
    pods = pods_of(manifests)
    found = {
        (source, target, port)
        for (source, one), (target, other), port in itertools.product(pods.items(), pods.items(), PORTS)
        if (one.here or other.here) and allowed(manifests, one, other, port)
    }
    wanted = FLOWS | (OF_CLOUDNATIVE_PG if of_kind(manifests, "Cluster") else set())
    # Whatever a node may, so may the process that waits beside it.
    same = {"shard": [one for one in ("shard", "shard-waiting") if one in pods]}
    assert found == {
        (one, other, port)
        for source, target, port in wanted
        for one, other in itertools.product(same.get(source, [source]), same.get(target, [target]))
    }


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
