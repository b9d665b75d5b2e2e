"""What a node tells Prometheus of wrong counts is what was found last, of the slots that it has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shard_node.admin.drift import Drift


def drifted(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("likering_counts_drifted_posts")


def test_what_is_looked_at_again_replaces_what_was_known() -> None:
    registry = CollectorRegistry()
    drift = Drift(registry)
    drift.verified(0, 0, 6, 10, {1: "a", 6: "m"})
    drift.verified(0, 6, None, 10, {9: "z"})
    drift.verified(1, 0, None, 5, {2: "b"})
    assert drifted(registry) == 4
    drift.verified(0, 0, 6, 10, {1: "a"})
    assert drifted(registry) == 3
    drift.repaired(0, ["a"], 1)
    assert drifted(registry) == 2
    drift.keep({1})
    assert drifted(registry) == 1
    assert registry.get_sample_value("likering_counts_verified_posts_total") == 35
    assert registry.get_sample_value("likering_counts_repaired_posts_total") == 1
