"""What is computed on paper beside what a real cluster does: a ring from three to eight nodes, and a like's costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from likering.capacity.measuring import measure
from likering.capacity.simulation import SimulatedRing
from likering.dev.cluster import EmbeddedCluster

pytestmark = pytest.mark.timeout(300)

SLOTS = 32
GROWTH = (("d", "e", "f"), ("g",), ("h",))
"""Three nodes double, then one joins twice."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(tmp_path / "cluster", nodes=3, slots=SLOTS) as cluster:
        yield cluster


def ring(cluster: EmbeddedCluster, *arguments: str) -> Any:
    """What ``likering …`` prints as JSON."""
    command = [
        sys.executable,
        "-m",
        "likering.cli",
        *arguments,
        "--admin",
        cluster.admin_address,
        "-o",
        "json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def owners(cluster: EmbeddedCluster) -> list[str]:
    return list(ring(cluster, "ring", "status")["topology"]["owners"])


def test_a_simulated_ring_is_the_real_one_from_three_to_eight_nodes(small: EmbeddedCluster) -> None:
    """Slot by slot: the first assignment, each plan with its balance, the ring after it, and one that is drained."""
    names = ["a", "b", "c"]
    simulated = SimulatedRing(SLOTS, names)
    assert owners(small) == list(simulated.topology.owners)
    for joining in GROWTH:
        for name in joining:
            small.add_node(name)
        names += joining
        real = ring(small, "ring", "plan")
        made = simulated.resize(names)
        assert [(move["slot"], move["source"], move["target"]) for move in real["moves"]] == [
            (move.slot, move.source, move.target) for move in made.moves
        ]
        assert len(real["moves"]) == real["minimum"] == made.moved == made.minimum
        assert {share["node"]: share["slots"] for share in real["after"]} == dict(made.after.slots)
        ring(small, "ring", "apply", "--yes")
        assert owners(small) == list(simulated.topology.owners)
    assert len(small.nodes) == 8
    ring(small, "node", "drain", "b", "--yes")
    simulated.resize([name for name in names if name != "b"])
    assert owners(small) == list(simulated.topology.owners)


async def test_the_assumptions_of_a_plan_are_measured_on_a_real_cluster(tmp_path: Path) -> None:
    said: list[str] = []
    costs = await measure(tmp_path / "cluster", seconds=1.0, likes=5_000, posts_per_read=20, say=said.append)
    assert all(value > 0 for value in asdict(costs).values())
    # A row of each side has the ids, 38 bytes, and stands in an index at least.
    assert costs.bytes_per_like > 2 * 38
    # A page of counts is cheaper than as many calls.
    assert costs.counts_per_router_core > costs.likes_per_router_core
    assert "storing 5,000 likes" in said
