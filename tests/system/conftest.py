"""What the tests of single handoffs share: a cluster whose nodes stand still where they are told to."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from likering.dev import part as supervision
from likering.dev.cluster import EmbeddedCluster
from likering.topology.postgres_moves import PostgresMoveStore
from tests.parts.callers import Callers
from tests.parts.node_at_failpoint import DIRECTORY, Failpoints
from tests.parts.one_handoff import BUDGET_MS, RATE, SLOTS, Handoff


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedCluster, Failpoints]]:
    """A cluster of two nodes that stand still and die as the tests want."""
    failpoints = tmp_path_factory.mktemp("failpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY, str(failpoints))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        # Whoever dies twice in a short time waits before the next start; here dying is no sign of trouble.
        patch.setattr(supervision, "_STEADY_SECONDS", 0.0)
        with EmbeddedCluster(
            tmp_path_factory.mktemp("crashes"),
            nodes=2,
            slots=SLOTS,
            node_module="tests.parts.node_at_failpoint",
        ) as cluster:
            asyncio.run(_set_limits(cluster.topology_dsn))
            yield cluster, Failpoints(failpoints)


async def _set_limits(dsn: str) -> None:
    moves = PostgresMoveStore(dsn)
    await moves.set_limits(grace_seconds=0, pause_budget_ms=BUDGET_MS)
    await moves.close()


@pytest.fixture
async def handoff(
    rig: tuple[EmbeddedCluster, Failpoints], request: pytest.FixtureRequest
) -> AsyncIterator[Handoff]:
    """A slot that takes likes and is about to move."""
    cluster, failpoints = rig
    seed = zlib.crc32(request.node.name.encode())
    async with Callers(cluster.address, callers=4, posts=24, seed=seed, timeout=1.5, rate=RATE) as callers:
        handoff = await Handoff.between(cluster, failpoints, callers)
        try:
            await callers.more(50)
            yield handoff
        finally:
            for name in cluster.nodes:
                failpoints.release(name)
            await handoff.close()
