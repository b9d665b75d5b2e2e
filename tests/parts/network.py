"""Which connections the network policies of a rendered overlay allow, pod by pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.parts.manifests import Manifest, of_kind, selects


class Pod(NamedTuple):
    """A pod as policies see it, with its ports by their names. ``here``: in the overlay's namespace."""

    labels: Mapping[str, str]
    ports: Mapping[str, int] = {}
    here: bool = True
    namespace: Mapping[str, str] = {}


def allowed(manifests: Sequence[Manifest], source: Pod, target: Pod, port: int) -> bool:
    """Whether TCP connections may be made. Pods outside the namespace are free as far as their own side goes."""
    policies = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    return (not source.here or _lets(policies, "Egress", source, target, target, port)) and (
        not target.here or _lets(policies, "Ingress", target, source, target, port)
    )


def _lets(
    policies: Sequence[Mapping[str, Any]], way: str, subject: Pod, peer: Pod, target: Pod, port: int
) -> bool:
    """Whether some policy of the subject lets the peer; whoever no policy selects would be free."""
    selecting = [
        spec
        for spec in policies
        if way in spec["policyTypes"] and selects(spec["podSelector"], subject.labels)
    ]
    assert selecting, f"no policy restricts {way} of {subject}"
    side = "to" if way == "Egress" else "from"
    return any(
        any(_is_peer(one, peer) for one in rule[side])
        and any(_is_port(one, target, port) for one in rule["ports"])
        for spec in selecting
        for rule in spec.get(way.lower(), ())
    )


def _is_peer(rule: Mapping[str, Any], peer: Pod) -> bool:
    assert rule.keys() <= {"podSelector", "namespaceSelector", "ipBlock"}, rule
    if "ipBlock" in rule:
        return (
            not peer.here and not peer.labels
        )  # an address outside the cluster; pods are named by their labels
    if "namespaceSelector" in rule:
        return selects(rule["namespaceSelector"], peer.namespace) and selects(
            rule.get("podSelector", {}), peer.labels
        )
    return peer.here and selects(rule["podSelector"], peer.labels)


def _is_port(rule: Mapping[str, Any], target: Pod, port: int) -> bool:
    if rule.get("protocol", "TCP") != "TCP":
        return False
    named = rule["port"]
    return (target.ports.get(named) if isinstance(named, str) else named) == port
