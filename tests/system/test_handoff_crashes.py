"""Whoever dies at whichever step of a handoff: the move ends, nothing acknowledged is lost, nothing is left behind.

Each test moves one slot from its owner to the other node of a cluster while likes flow to it, lets a node stand still
exactly at a step, and ends a process there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from likering.dev import part as supervision
from likering.dev.cluster import EmbeddedCluster
from likering.errors import LikeringError
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.topology.moves import MoveChanged, MoveState, SlotMove
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from tests.parts.apply_move import apply
from tests.parts.history import contradictions
from tests.parts.load import Callers, stored_in
from tests.parts.node_at_failpoint import DIRECTORY, Failpoints
from tests.parts.until import until

pytestmark = pytest.mark.timeout(120)

SLOTS = 8
ROOT = Path(__file__).parents[2]
BUDGET_MS = 4000
"""Of a pause: so long that a slow machine aborts nothing by itself."""
_SAID = "cannot tend the moves"
"""What a node logs when the topology does not answer."""
_LEFT = """
    SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
    UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'replication origin ' || roname FROM pg_replication_origin
    UNION ALL SELECT 'table ' || relname FROM pg_class
              WHERE relkind = 'r' AND relnamespace = 'likering'::regnamespace AND relname ~ '^(edges|posts)_s'
                AND NOT EXISTS (SELECT FROM slots WHERE relname IN ('edges_s' || slot, 'posts_s' || slot))
    UNION ALL SELECT 'row ' || slot || ' ' || state FROM slots WHERE state <> 'owner'
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedCluster, Failpoints]]:
    """A cluster of two nodes that stand still and die as the tests want."""
    failpoints = tmp_path_factory.mktemp("failpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY, str(failpoints))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
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
    async with Unhurried(cluster.address, callers=4, posts=24, seed=seed, timeout=1.5) as callers:
        handoff = await Handoff.between(cluster, failpoints, callers)
        try:
            await callers.more(50)
            yield handoff
        finally:
            for name in cluster.nodes:
                failpoints.release(name)
            await handoff.close()


class Unhurried(Callers):
    """Callers that leave the processor to those who start again."""

    async def _mutate(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0.02)
        await super()._mutate(*args, **kwargs)


class Handoff:
    """One move of a slot that has likes: from ``source``, its owner, to ``target``, the other node."""

    def __init__(
        self, cluster: EmbeddedCluster, failpoints: Failpoints, callers: Callers, before: Topology
    ) -> None:
        self.cluster = cluster
        self.failpoints = failpoints
        self.callers = callers
        self.moves = PostgresMoveStore(cluster.topology_dsn)
        # From the node that has the most slots, so that both always have some.
        (self.source, _), *_ = Counter(owner for owner in before.owners if owner).most_common()
        (self.target,) = cluster.nodes.keys() - {self.source}
        slots = (slot_of(post, SLOTS) for post in callers.posts)
        self.slot = next(slot for slot in slots if before.owners[slot] == self.source)
        self.epoch = before.epochs[self.slot]
        self._owners_before = before.owners
        self.number = 0
        """Of the move, once it has begun."""
        self._store = PostgresTopologyStore(cluster.topology_dsn)

    @classmethod
    async def between(cls, cluster: EmbeddedCluster, failpoints: Failpoints, callers: Callers) -> Handoff:
        """Of a slot that the callers use."""
        store = PostgresTopologyStore(cluster.topology_dsn)
        try:
            return cls(cluster, failpoints, callers, await store.get())
        finally:
            await store.close()

    async def close(self) -> None:
        """Gives back the connections."""
        await self.moves.close()
        await self._store.close()

    # What happens

    async def begin_until(self, node: str, step: str) -> None:
        """Begins the move; returns when the node stands still at the step."""
        self.failpoints.arm(node, step)
        self.number = await apply(self.cluster.topology_dsn, self.slot, self.target)
        await self.failpoints.held(node)

    def release(self, node: str) -> None:
        """Lets it go on."""
        self.failpoints.release(node)

    def kill(self, node: str) -> int:
        """Ends the node's process, which stands still or not; returns how often it had been started again before."""
        restarts = self.cluster.parts[node, "node"].restarts
        self.cluster.kill(node, "node", signal.SIGKILL)
        self.release(node)
        return restarts

    async def kill_and_await(self, node: str) -> None:
        """Ends the node's process, and returns when another one serves."""
        part = self.cluster.parts[node, "node"]
        before = self.kill(node)
        await until(lambda: part.restarts > before and part.is_serving, 30)

    async def crash_postgres(self, node: str) -> None:
        """Ends the node's Postgres by an immediate shutdown, as a loss of power would; supervision starts it again."""
        process = self.cluster.parts[node, "postgres"].server.process
        assert process is not None
        self.cluster.kill(node, "postgres", signal.SIGQUIT)
        assert await asyncio.to_thread(process.wait, 20)

    @asynccontextmanager
    async def topology_away(self) -> AsyncIterator[None]:
        """Ends the topology's Postgres by an immediate shutdown; it comes back at the end of the ``async with``."""
        part = self.cluster.parts["topology", "postgres"]
        self.cluster.kill("topology", "postgres", signal.SIGQUIT)
        await asyncio.to_thread(part.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(part.start)

    # What is so

    def log_of(self, node: str) -> str:
        """What the node has said so far."""
        return (self.cluster.directory / "logs" / f"{node}-node.log").read_text()

    def takes_writes(self) -> Callable[[], bool]:
        """For ``until``: whether a like of the slot has been acknowledged since this call."""
        return self._acknowledged({self.slot})

    def takes_writes_of(self, node: str) -> Callable[[], bool]:
        """The same for any other slot of a node, as they were before the move."""
        others = {slot for slot, owner in enumerate(self._owners_before) if owner == node}
        return self._acknowledged(others - {self.slot})

    def _acknowledged(self, slots: Collection[int]) -> Callable[[], bool]:
        posts = {post for post in self.callers.posts if slot_of(post, SLOTS) in slots}
        history = self.callers.history
        since = len(history)
        return lambda: any(
            record.outcome is not None and record.edge[0] in posts for record in history[since:]
        )

    async def row(self, node: str) -> tuple[Any, ...] | None:
        """State and epoch of the slot in the node's database."""
        async with await _connect(self.cluster.nodes[node].postgres_dsn) as connection:
            cursor = await connection.execute("SELECT state, epoch FROM slots WHERE slot = %s", [self.slot])
            return await cursor.fetchone()

    async def move(self) -> SlotMove:
        """As the topology has it now."""
        return await self.moves.move(self.number)

    # The end

    async def ends(self, state: MoveState = MoveState.RETIRED) -> SlotMove:
        """Waits for the move's end, and checks that nothing is lost, doubled or left behind."""
        reverted = state is MoveState.REVERTED
        await nothing(self._unfinished)
        move = await self.move()
        assert move.state is state, move
        owner, epoch = (self.source, self.epoch + 2) if reverted else (self.target, self.epoch + 1)
        await until(self.takes_writes())
        await self.callers.stop()
        assert await self._owners() == {(self.slot, owner, epoch)}
        events = await self.moves.events([self.number])
        assert [event for event in events if "this is a bug" in str(event.detail)] == []
        assert self.callers.stale_reads == []
        stored = await stored_in(
            [node.postgres_dsn for node in self.cluster.nodes.values()], self.callers.posts
        )
        assert contradictions(self.callers.history, stored) == [], f"seed {self.callers.seed}"
        return move

    async def _unfinished(self) -> list[str]:
        """What is still to come."""
        move = await self.move()
        if move.state not in (MoveState.RETIRED, MoveState.REVERTED):
            return [f"{move}: {move.state}, attempt {move.attempt}, {move.waits_for!r}, {move.last_error!r}"]
        left = []
        for name, node in self.cluster.nodes.items():
            async with await _connect(node.postgres_dsn) as connection:
                cursor = await connection.execute(_LEFT)
                left += [f"on {name}: {what}" for (what,) in await cursor.fetchall()]
        return left

    async def _owners(self) -> set[tuple[int, str, int]]:
        """Who says of itself to own the slot; all slots' owners are compared with the topology."""
        topology = await self._store.get()
        said = []
        for name, node in self.cluster.nodes.items():
            async with await _connect(node.postgres_dsn) as connection:
                cursor = await connection.execute("SELECT slot, epoch FROM slots WHERE state = 'owner'")
                said += [(slot, name, epoch) for slot, epoch in await cursor.fetchall()]
        assert sorted(said) == [(slot, topology.owners[slot], topology.epochs[slot]) for slot in range(SLOTS)]
        return {one for one in said if one[0] == self.slot}


async def nothing(look: Callable[[], Awaitable[list[str]]], seconds: float = 45.0) -> None:
    """Looks until there is nothing to be seen. A database that is away is something too."""
    seen: list[str] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    seen = await look()
                except MoveChanged:
                    raise
                except (LikeringError, psycopg.Error) as error:
                    seen = [repr(error)]
                if not seen:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError("\n".join(seen)) from None


async def _connect(dsn: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, options="-csearch_path=likering")


# The target


@pytest.mark.parametrize("step", ["copying", "published", "snapshot", "copied", "catching_up"])
async def test_the_target_dies_before_the_freeze(handoff: Handoff, step: str) -> None:
    """Nobody goes on with what it had begun: another attempt copies again."""
    await handoff.begin_until(handoff.target, step)
    handoff.kill(handoff.target)
    assert (await handoff.ends()).attempt > 1


@pytest.mark.parametrize("step", ["freezing", "frozen", "drained"])
async def test_the_target_dies_before_the_commit(handoff: Handoff, step: str) -> None:
    """The source serves again, and the move starts over."""
    await handoff.begin_until(handoff.target, step)
    handoff.kill(handoff.target)
    move = await handoff.ends()
    assert move.attempt > 1
    states = [event.state for event in await handoff.moves.events([move.move])]
    assert states[states.index(MoveState.FREEZING) + 1] is MoveState.ABORTED


@pytest.mark.parametrize("step", ["committed", "activating", "serving", "active"])
async def test_the_target_dies_after_the_commit(handoff: Handoff, step: str) -> None:
    """There is no way back: the next process activates."""
    await handoff.begin_until(handoff.target, step)
    handoff.kill(handoff.target)
    assert (await handoff.ends()).attempt == 1


async def test_the_target_stays_dead_with_the_slot_frozen(handoff: Handoff) -> None:
    """The source asks for the end of the attempt by itself, and serves without the target."""
    await handoff.begin_until(handoff.target, "drained")
    with handoff.failpoints.kept_dead(handoff.target):
        handoff.kill(handoff.target)
        await until(handoff.takes_writes())
        move = await handoff.move()
        assert move.state is MoveState.ABORTED
        (aborted,) = [e for e in await handoff.moves.events([move.move]) if e.state is MoveState.ABORTED]
        assert aborted.who == handoff.source
        assert await handoff.row(handoff.source) == ("owner", handoff.epoch)
    assert (await handoff.ends()).attempt > 1


async def test_a_target_that_wakes_up_finds_the_slot_taken_back(handoff: Handoff) -> None:
    """It stood still with everything drained: its commit comes after the source's word, and does nothing."""
    await handoff.begin_until(handoff.target, "drained")
    await until(handoff.takes_writes())
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt > 1


async def test_the_target_stays_dead_after_the_commit(handoff: Handoff) -> None:
    """An operator gives the slot back, and the target can never activate."""
    await handoff.begin_until(handoff.target, "committed")
    with handoff.failpoints.kept_dead(handoff.target):
        handoff.kill(handoff.target)
        await handoff.moves.revert(handoff.number, "test")
        await until(handoff.takes_writes())
        assert await handoff.row(handoff.source) == ("owner", handoff.epoch + 2)
    await handoff.ends(MoveState.REVERTED)


async def test_a_target_that_wakes_up_finds_the_slot_given_back(handoff: Handoff) -> None:
    """It stood still after its commit, and an operator did not wait."""
    await handoff.begin_until(handoff.target, "committed")
    await handoff.moves.revert(handoff.number, "test")
    await until(handoff.takes_writes())
    handoff.release(handoff.target)
    await handoff.ends(MoveState.REVERTED)


# The source


@pytest.mark.parametrize("step", ["copying", "catching_up"])
async def test_the_source_dies_before_the_freeze(handoff: Handoff, step: str) -> None:
    """Replication is Postgres's: the same attempt goes on when the source is back."""
    await handoff.begin_until(handoff.target, step)
    await handoff.kill_and_await(handoff.source)
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt == 1


async def test_the_source_is_away_when_it_is_to_freeze(handoff: Handoff) -> None:
    """The move does not get any further before the source is back."""
    await handoff.begin_until(handoff.target, "catching_up")
    handoff.kill(handoff.source)
    handoff.release(handoff.target)
    await handoff.ends()


async def test_the_source_dies_before_it_answers_the_freeze(handoff: Handoff) -> None:
    """The freeze has committed and nobody knows. The next process finds the slot frozen, and by itself the abort."""
    handoff.failpoints.arm(handoff.target, "aborted")
    await handoff.begin_until(handoff.source, "sealed")
    with handoff.failpoints.kept_dead(handoff.source):
        handoff.kill(handoff.source)
        await handoff.failpoints.held(handoff.target)
        assert await handoff.row(handoff.source) == ("frozen", handoff.epoch)
    await until(handoff.takes_writes())
    assert (await handoff.move()).state is MoveState.ABORTED
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt > 1


async def test_the_source_dies_frozen_and_the_move_completes(handoff: Handoff) -> None:
    """Nothing of it is needed: the target has everything, and waits out the reads."""
    await handoff.begin_until(handoff.target, "frozen")
    with handoff.failpoints.kept_dead(handoff.source):
        handoff.kill(handoff.source)
        assert await handoff.row(handoff.source) == ("frozen", handoff.epoch)
        handoff.release(handoff.target)
        await until(handoff.takes_writes())
    assert (await handoff.ends()).attempt == 1


async def test_the_source_dies_frozen_and_takes_the_slot_back(handoff: Handoff) -> None:
    """It comes back before the target has committed."""
    await handoff.begin_until(handoff.target, "frozen")
    handoff.kill(handoff.source)
    await until(handoff.takes_writes())
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt > 1


@pytest.mark.parametrize("step", ["leaving", "renamed", "set_aside", "moved", "dropped"])
async def test_the_source_dies_while_it_sets_its_copy_aside(handoff: Handoff, step: str) -> None:
    """It is taken up where it was."""
    await handoff.begin_until(handoff.source, step)
    handoff.kill(handoff.source)
    assert (await handoff.ends()).attempt == 1


# Postgres


@pytest.mark.parametrize("step", ["copying", "catching_up", "frozen", "committed", "activating"])
@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_postgres_crashes(handoff: Handoff, side: str, step: str) -> None:
    """It recovers; the target meets it away, or just back."""
    await handoff.begin_until(handoff.target, step)
    await handoff.crash_postgres(handoff.source if side == "source" else handoff.target)
    handoff.release(handoff.target)
    move = await handoff.ends()
    if step in ("committed", "activating"):
        assert move.attempt == 1


@pytest.mark.parametrize("step", ["sealed", "leaving", "renamed", "set_aside", "dropped"])
async def test_the_source_postgres_crashes_at_a_step_of_its_own(handoff: Handoff, step: str) -> None:
    """It recovers, and what was done is done."""
    await handoff.begin_until(handoff.source, step)
    await handoff.crash_postgres(handoff.source)
    handoff.release(handoff.source)
    await handoff.ends()


async def test_the_source_postgres_crashes_half_detached(handoff: Handoff) -> None:
    """A reader keeps the detachment from its second half; it is finished afterwards."""
    await handoff.begin_until(handoff.source, "renamed")
    dsn = handoff.cluster.nodes[handoff.source].postgres_dsn

    async def whole() -> list[str]:
        async with await _connect(dsn) as connection:
            cursor = await connection.execute("SELECT FROM pg_inherits WHERE inhdetachpending")
            return [] if cursor.rowcount else ["nothing is half detached"]

    reader = await _connect(dsn)
    try:
        await reader.execute("BEGIN")
        await reader.execute("SELECT FROM edges LIMIT 1")
        handoff.release(handoff.source)
        await nothing(whole)
        await handoff.crash_postgres(handoff.source)
    finally:
        await reader.close()
    assert (await handoff.ends()).attempt == 1


# The topology, and those who only look on


@pytest.mark.parametrize("step", ["copying", "frozen", "committed"])
async def test_the_topology_dies(handoff: Handoff, step: str) -> None:
    """The move stands still and says so; likes of all other slots are taken meanwhile."""
    await handoff.begin_until(handoff.target, step)
    logs = {name: len(handoff.log_of(name)) for name in handoff.cluster.nodes}
    async with handoff.topology_away():
        handoff.release(handoff.target)
        for name, length in logs.items():
            await until(lambda name=name, length=length: _SAID in handoff.log_of(name)[length:])  # type: ignore[misc]
            await until(handoff.takes_writes_of(name))
    await handoff.ends()


async def test_a_frozen_source_restarts_without_the_topology(handoff: Handoff) -> None:
    """Nothing but the topology's word unfreezes a slot: no timer, and no restart."""
    await handoff.begin_until(handoff.target, "frozen")
    async with handoff.topology_away():
        part = handoff.cluster.parts[handoff.source, "node"]
        before = handoff.kill(handoff.source)
        length = len(handoff.log_of(handoff.source))
        handoff.release(handoff.target)
        written = handoff.takes_writes()
        await until(lambda: part.restarts > before and part.is_serving, 30)
        await until(lambda: _SAID in handoff.log_of(handoff.source)[length:])
        await until(handoff.takes_writes_of(handoff.source))
        assert not written()
        assert await handoff.row(handoff.source) == ("frozen", handoff.epoch)
    await handoff.ends()


async def test_whoever_applied_the_plan_dies(handoff: Handoff) -> None:
    """The nodes need nobody."""
    handoff.failpoints.arm(handoff.target, "copying")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.parts.apply_move"),
        *(handoff.cluster.topology_dsn, str(handoff.slot), handoff.target),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await handoff.failpoints.held(handoff.target)
        assert process.stdout is not None
        handoff.number = int(await process.stdout.readline())
    finally:
        process.kill()
        await process.communicate()
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt == 1


@pytest.mark.parametrize("step", ["copying", "frozen"])
async def test_the_router_dies(handoff: Handoff, step: str) -> None:
    """The nodes go on, and callers find the slot where it is then."""
    await handoff.begin_until(handoff.target, step)
    handoff.cluster.kill("router", "router", signal.SIGKILL)
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt == 1
