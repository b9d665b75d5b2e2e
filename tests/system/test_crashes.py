"""Parts die while likes flow: every acknowledged like is there afterwards, counted once, and nobody had to help."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from likering.dev.cluster import EmbeddedCluster
from likering.dev.node import EmbeddedNode
from tests.parts.callers import Callers
from tests.parts.oracle import contradictions, judged
from tests.parts.stored import stored_in
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster of this module's own: its parts are killed."""
    with EmbeddedCluster(tmp_path_factory.mktemp("victim"), nodes=2, slots=16) as cluster:
        yield cluster


async def assert_nothing_lost(cluster: EmbeddedCluster, callers: Callers) -> None:
    """The history and the databases of all nodes agree."""
    stored = await stored_in([node.postgres_dsn for node in cluster.nodes.values()], callers.posts)
    problems = contradictions(callers.history, stored, trouble=True)
    assert not problems, judged(problems, callers.seed)
    assert callers.acknowledged > 0


@pytest.mark.parametrize(
    ("name", "part"),
    [("a", "node"), ("a", "postgres"), ("a", "valkey"), ("router", "router"), ("topology", "postgres")],
    ids=["node", "postgres", "valkey", "router", "topology"],
)
async def test_a_part_is_killed_under_load(victim: EmbeddedCluster, name: str, part: str) -> None:
    """SIGKILL, twice; the part comes back by itself and calls are answered again."""
    async with Callers(victim.address, seed=len(name + part)) as callers:
        for _ in range(2):
            await callers.more(200)
            victim.kill(name, part, signal.SIGKILL)
            await callers.more(400)
        await callers.stop()
    await assert_nothing_lost(victim, callers)


async def test_a_node_and_its_databases_die_at_once(victim: EmbeddedCluster) -> None:
    """As when a machine loses its power."""
    async with Callers(victim.address, seed=99) as callers:
        await callers.more(200)
        for part in ("valkey", "postgres", "node"):
            victim.kill("b", part, signal.SIGKILL)
        await callers.more(600)
        await callers.stop()
    await assert_nothing_lost(victim, callers)


async def test_a_stopped_writer_goes_on_after_another_took_over(
    victim: EmbeddedCluster, tmp_path: Path
) -> None:
    """Two processes of one node: the older one is stopped, and continued when the newer one writes."""
    node = victim.nodes["a"]
    with standby(victim, node, tmp_path / "standby.log") as second:
        async with Callers(victim.address, seed=7) as callers:
            await callers.more(200)
            victim.kill("a", "node", signal.SIGSTOP)
            try:
                await until(lambda: "took the lead" in (tmp_path / "standby.log").read_text())
                await callers.more(400)
            finally:
                victim.kill("a", "node", signal.SIGCONT)
            await callers.more(400)
            # And back: the writer of now dies, and the one that had been stopped is the one that waits.
            second.kill()
            await callers.more(400)
            await callers.stop()
    await assert_nothing_lost(victim, callers)


class standby:  # noqa: N801 - reads as a statement
    """A second process of a node, which waits for the lead."""

    def __init__(self, cluster: EmbeddedCluster, node: EmbeddedNode, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._command = [
            *(sys.executable, "-m", "shard_node", "--name", node.name, "--listen", f"127.0.0.1:{port}"),
        ]
        self._environment = {
            **os.environ,
            "LIKERING_NODE_POSTGRES": node.postgres_dsn,
            "LIKERING_NODE_TOPOLOGY": cluster.topology_dsn,
            "LIKERING_NODE_CACHE": node.cache_url,
        }
        self._log = log

    def __enter__(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env=self._environment)
        return self._process

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
