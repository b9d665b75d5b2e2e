"""The source's Postgres fails over to its synchronous standby at a step of a handoff.

The promoted standby has what was acknowledged, and no logical replication slot. What had been streamed to the target
may be more than it has: an attempt goes on only if all had arrived, and the source had answered, before.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from likering.dev.postgres import PostgresServer
from likering.topology.moves import MoveState
from tests.parts.one_handoff import Handoff
from tests.parts.standby import Standby
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)


async def fails_over(handoff: Handoff, step: str, directory: Path) -> None:
    """Begins the move, and replaces the source's Postgres while the target stands still at the step.

    The source serves its other slots from the promoted standby when the target goes on.
    """
    part = handoff.cluster.parts[handoff.source, "postgres"]
    assert isinstance(part.server, PostgresServer)
    standby = Standby(part.server, directory)
    await asyncio.to_thread(standby.follow)
    await handoff.begin_until(handoff.target, step)
    await asyncio.to_thread(standby.take_over, part)
    await until(handoff.takes_writes_of(handoff.source), 30)
    handoff.release(handoff.target)


@pytest.mark.parametrize("step", ["snapshot", "catching_up"])
async def test_the_replication_slot_is_gone(handoff: Handoff, tmp_path: Path, step: str) -> None:
    """It stayed on the old primary: another attempt copies again."""
    await fails_over(handoff, step, tmp_path)
    assert (await handoff.ends()).attempt > 1


async def test_a_promoted_standby_answers_for_no_copy_made_before(handoff: Handoff, tmp_path: Path) -> None:
    """The freeze is answered from another timeline: aborted, and the source serves until the next attempt."""
    await fails_over(handoff, "freezing", tmp_path)
    move = await handoff.ends()
    assert move.attempt > 1
    events = await handoff.moves.events([move.move])
    reasons = [event.detail.get("reason", "") for event in events if event.state is MoveState.ABORTED]
    assert any("the copy was made of" in reason for reason in reasons), reasons


async def test_the_source_may_take_the_slot_back(handoff: Handoff, tmp_path: Path) -> None:
    """The target stands still meanwhile: it may be asked for the end before it goes on, or have committed by then."""
    await fails_over(handoff, "drained", tmp_path)
    move = await handoff.ends()
    ends = [
        event.who for event in await handoff.moves.events([move.move]) if event.state is MoveState.ABORTED
    ]
    assert ends == [handoff.source] * (move.attempt - 1)


@pytest.mark.parametrize("step", ["committed", "activating"])
async def test_what_was_answered_before_is_good(handoff: Handoff, tmp_path: Path, step: str) -> None:
    """The freeze had reached the standby before it was answered: the move goes on, and nothing was lost."""
    await fails_over(handoff, step, tmp_path)
    assert (await handoff.ends()).attempt == 1
