"""Whoever dies at whichever step of a handoff: the move ends, nothing acknowledged is lost, nothing is left behind.

Each test moves one slot from its owner to the other node of a cluster while likes flow to it, lets a node stand still
exactly at a step, and ends a process there.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from likering.topology.moves import MoveChanged, MoveState
from tests.parts.one_handoff import SAID, Handoff, connect, nothing
from tests.parts.until import until

pytestmark = pytest.mark.timeout(120)

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


async def test_a_target_that_is_lost_while_it_activates_gives_the_slot_back(handoff: Handoff) -> None:
    """By its slot nobody reverts the move any more. An operator who says that the node is lost does; likes go on."""
    await handoff.begin_until(handoff.target, "activating")
    with handoff.failpoints.kept_dead(handoff.target):
        handoff.kill(handoff.target)
        with pytest.raises(MoveChanged, match="only one that is committed"):
            await handoff.moves.revert(handoff.number, "test")
        await handoff.moves.give_up(handoff.target, "test")
        await until(handoff.takes_writes())
        assert await handoff.row(handoff.source) == ("owner", handoff.epoch + 2)
    await handoff.ends(MoveState.REVERTED)


# Whoever cancels


async def test_a_cancel_overtakes_the_freeze(handoff: Handoff) -> None:
    """The source has heard of the cancel before it freezes the slot; the target tells it once more."""
    handoff.failpoints.look_when_told(handoff.source)
    await handoff.begin_until(handoff.target, "freezing")
    await handoff.moves.cancel([handoff.number], "test")
    handoff.failpoints.arm(handoff.source, "sealed")
    handoff.failpoints.go_on(handoff.target)
    await handoff.failpoints.held(handoff.source)
    assert await handoff.row(handoff.source) == ("frozen", handoff.epoch)
    handoff.failpoints.go_on(handoff.source)
    await until(handoff.takes_writes())
    handoff.release(handoff.source)
    await handoff.moves.set_limits(paused=False)  # which is told to all nodes
    await handoff.ends(MoveState.CANCELLED)


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


async def test_an_answer_of_before_the_freeze_comes_late(handoff: Handoff) -> None:
    """What the source has read of the move is older than the freeze: no reason to let the slot go on."""
    failpoints = handoff.failpoints
    failpoints.hold_answer(handoff.source)
    await handoff.begin_until(handoff.target, "catching_up")
    await failpoints.answer_held(handoff.source)
    failpoints.go_on_until(handoff.target, "drained")
    await failpoints.held(handoff.target)
    takes_writes = handoff.takes_writes()
    failpoints.release_answer(handoff.source)
    await until(takes_writes)
    # For the target is silent, and has been asked about.
    assert (await handoff.move()).state is MoveState.ABORTED
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


async def test_the_target_postgres_crashes_before_it_has_written_that_it_serves(handoff: Handoff) -> None:
    """Taking the slot does not wait for the disk: it is done again, and only then may the source's copy go."""
    async with await connect(handoff.cluster.nodes[handoff.target].postgres_dsn) as connection:
        await connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        await connection.execute("SELECT pg_reload_conf()")
        await handoff.begin_until(handoff.target, "serving")
        assert await handoff.row(handoff.target) == ("owner", handoff.epoch + 1)
        await connection.execute("ALTER SYSTEM RESET wal_writer_delay")  # read by the server that recovers
        await handoff.crash_postgres(handoff.target)

    async def is_lost() -> list[str]:
        row = await handoff.row(handoff.target)
        # A row of before: the slot may have been here, and have left.
        return [] if row is None or row[0] == "moved" else [f"the slot is {row}"]

    await nothing(is_lost)
    handoff.release(handoff.target)
    assert (await handoff.ends()).attempt == 1


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
        async with await connect(dsn) as connection:
            cursor = await connection.execute("SELECT FROM pg_inherits WHERE inhdetachpending")
            return [] if cursor.rowcount else ["nothing is half detached"]

    reader = await connect(dsn)
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
            await until(lambda name=name, length=length: SAID in handoff.log_of(name)[length:])  # type: ignore[misc]
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
        await until(lambda: SAID in handoff.log_of(handoff.source)[length:])
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
