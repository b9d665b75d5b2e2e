"""A node is lost for good while it gives its slots away: the ring goes on without it, and it may come back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.ring.hashing import slot_of
from likering.topology.moves import MoveState
from tests.parts.apply_move import apply
from tests.parts.node_at_failpoint import DIRECTORY, Failpoints
from tests.parts.one_handoff import connect, nothing
from tests.parts.resizing import Resizing
from tests.parts.ring_commands import likering, output_of, refusal

pytestmark = pytest.mark.timeout(180)

SLOTS = 4
POST = "sunset"
USERS = ("ada", "ben", "cyd")


class Lost(NamedTuple):
    """A cluster in which a node has handed over its only slot, that of POST, and is gone before it has noted that."""

    cluster: EmbeddedCluster
    resizing: Resizing
    node: str
    target: str
    slot: int
    move: int

    async def run(self, *arguments: str) -> Any:
        """Runs ``likering …``."""
        return await asyncio.to_thread(likering, self.cluster.admin_address, *arguments)

    async def rows(self) -> list[tuple[Any, ...]]:
        """What the lost node's database says of slots."""
        async with await connect(self.cluster.nodes[self.node].postgres_dsn) as connection:
            cursor = await connection.execute("SELECT slot, state, epoch FROM slots ORDER BY slot")
            return await cursor.fetchall()

    async def findings(self, number: int) -> list[tuple[str, str]]:
        """Waits until a check finds so many things that stay: what, and what to do about it."""
        findings: list[tuple[str, str]] = []

        async def others() -> list[str]:
            found = json.loads((await self.run("ring", "check", "-o", "json")).stdout)
            findings[:] = [(one["what"], one["remedy"]) for one in found["findings"] if not one["transient"]]
            silent = found["unreachable"]
            return [str(found)] if silent or len(findings) != number else []

        await nothing(others)
        return findings


@pytest.fixture
async def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lost]:
    """Nodes a, b and c, one of which is lost."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    failpoints = Failpoints(tmp_path)
    cluster = EmbeddedCluster(
        tmp_path / "cluster", nodes=3, slots=SLOTS, node_module="tests.parts.node_at_failpoint"
    )
    await asyncio.to_thread(cluster.start)
    try:
        async with Resizing(cluster) as resizing:
            await resizing.moves.set_limits(grace_seconds=0, pause_budget_ms=4000)
            slot = slot_of(POST, SLOTS)
            topology = await resizing.nodes.get()
            node = topology.owners[slot]
            assert node is not None
            target, other = sorted(topology.nodes.keys() - {node})
            for mine in sorted(topology.slots_of(node).keys() - {slot}):
                await apply(cluster.topology_dsn, mine, other)
                await nothing(lambda: _unended(resizing))
            with LikeTracker(cluster.address, timeout=10.0) as likes:
                for user in USERS:
                    likes.like(user, POST)
            failpoints.arm(target, "serving")
            move = await apply(cluster.topology_dsn, slot, target)
            await failpoints.held(target)
            await asyncio.to_thread(cluster.stop_node, node)
            failpoints.release(target)
            await resizing.reached(None, lambda moves: [*moves][-1].state is MoveState.ACTIVE, 30)
            yield Lost(cluster, resizing, node, target, slot, move)
    finally:
        for name in "abc":
            failpoints.release(name)
        await asyncio.to_thread(cluster.stop)


async def _unended(resizing: Resizing) -> list[str]:
    return [f"{move} is {move.state}" for move in await resizing.moves.moves()]


async def _likes(lost: Lost) -> int:
    """As callers see them, after one more."""

    def one_more() -> int:
        with LikeTracker(lost.cluster.address, timeout=10.0) as likes:
            likes.like("dan", POST)
            return likes.get_like_count(POST).count

    return await asyncio.to_thread(one_more)


async def _remove(lost: Lost) -> None:
    """The ring stands still until the node is given up."""
    (other,) = lost.cluster.nodes.keys() - {lost.node, lost.target}
    said = refusal(await lost.run("node", "drain", other, "--yes", "--no-wait"))
    assert "slots are moving already" in said
    assert "takes part in move" in refusal(await lost.run("node", "remove", lost.node, "--yes"))
    removed = output_of(await lost.run("node", "remove", lost.node, "--lost", "--yes", "-o", "json"))
    assert sorted(node["name"] for node in removed) == sorted(lost.cluster.nodes.keys() - {lost.node})
    assert (await lost.resizing.moves.move(lost.move)).state is MoveState.RETIRED
    drained = output_of(await lost.run("node", "drain", other, "--yes", "-o", "json", "--timeout", "60"))
    assert drained["slots_moved"] == drained["slots_planned"] > 0
    assert (await lost.run("node", "undrain", other)).exit_code == 0
    assert await _likes(lost) == len(USERS) + 1
    await nothing(lambda: _unended(lost.resizing))
    await lost.findings(0)


async def test_the_ring_goes_on_without_a_node_that_is_lost(lost: Lost) -> None:
    """Back with its database, it owns nothing, sets aside what was frozen, and keeps it for whoever wants to look."""
    await _remove(lost)
    await asyncio.to_thread(lost.cluster.start_node, lost.node)
    kept = [f"{parent}_s{lost.slot}_m{lost.move}" for parent in ("edges", "posts", "user_likes")]
    for name, (what, remedy) in zip(kept, await lost.findings(len(kept)), strict=True):
        assert what.startswith(f"copy kept in table {name} of move {lost.move}, which has ended")
        assert remedy.startswith(f"make sure that node {lost.target} has the slot's likes; then ")
        async with await connect(lost.cluster.nodes[lost.node].postgres_dsn) as connection:
            await connection.execute(remedy.rpartition(": ")[2].encode())
    await lost.findings(0)
    assert {state for _, state, _ in await lost.rows()} == {"moved"}
    assert await _likes(lost) == len(USERS) + 1

    # And it takes slots again as any other node, that one too.
    topology = await lost.resizing.nodes.get()
    assert not topology.slots_of(lost.node)
    await apply(lost.cluster.topology_dsn, lost.slot, lost.node)
    await nothing(lambda: _unended(lost.resizing))
    assert (await lost.resizing.nodes.get()).owners[lost.slot] == lost.node
    assert await _likes(lost) == len(USERS) + 1
    await lost.findings(0)


async def test_a_database_from_before_the_move_is_found(lost: Lost) -> None:
    """It says of itself that it owns the slot; nobody asks it, and a check says what to do."""
    assert (await lost.run("ring", "cancel", "--lost", lost.node, "--yes")).stdout == "moves: 1 retired\n"
    assert (await lost.run("node", "remove", lost.node, "--yes")).exit_code == 0
    postgres = lost.cluster.parts[lost.node, "postgres"]
    await asyncio.to_thread(postgres.start)
    async with await connect(lost.cluster.nodes[lost.node].postgres_dsn) as connection:
        await connection.execute(
            "UPDATE slots SET state = 'owner', move = NULL, attempt = NULL WHERE slot = %s", [lost.slot]
        )
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(lost.cluster.start_node, lost.node)
    (what, remedy), *tables = await lost.findings(4)
    assert what.startswith(f"the database has this node as the owner of slot {lost.slot} at epoch 1")
    assert what.endswith(f"it is node {lost.target}")
    assert remedy.startswith("stop the node's process")
    assert all(f"node {lost.target} owns slot {lost.slot} and no move needs it" in what for what, _ in tables)
    assert await _likes(lost) == len(USERS) + 1
