"""What operators are told of a move that does not go on, with whatever holds it up made real."""

from __future__ import annotations

import pytest

from likering.topology.moves import MoveState, SlotMove
from tests.parts.apply_move import apply
from tests.parts.one_handoff import Handoff, connect, nothing

pytestmark = pytest.mark.timeout(120)


async def test_a_node_whose_move_waits_says_that_it_lives(handoff: Handoff) -> None:
    """Again and again, and not only when there is news: whoever says nothing is taken for dead."""
    await handoff.moves.set_limits(paused=True)
    try:
        handoff.number = await apply(handoff.cluster.topology_dsn, handoff.slot, handoff.target)
        await _waits(handoff, "moves are paused")
        first = await handoff.move()

        async def no_other_sign() -> list[str]:
            return [] if (await handoff.move()).word_at > first.word_at else ["no other sign"]

        await nothing(no_other_sign)
        now = await handoff.move()
        assert (now.waits_for, now.waits_since, now.state) == (
            first.waits_for,
            first.waits_since,
            MoveState.PLANNED,
        )
    finally:
        await handoff.moves.set_limits(paused=False)
    await handoff.ends()


async def test_a_transaction_that_is_in_the_way_is_named(handoff: Handoff) -> None:
    """Postgres makes a replication slot only once all transactions that write have ended, whoever has begun them."""
    async with await connect(handoff.cluster.nodes[handoff.source].postgres_dsn) as connection:
        await connection.execute("SET application_name = 'a report'")
        await connection.execute("BEGIN")
        await connection.execute("SELECT pg_current_xact_id()")
        handoff.number = await apply(handoff.cluster.topology_dsn, handoff.slot, handoff.target)
        move = await _waits(handoff, "has to end first")
        assert move.state is MoveState.COPYING
        assert move.waits_for == (
            f"a transaction on node {handoff.source}'s Postgres has to end first:"
            f" process {connection.info.backend_pid} (a report)"
        )
        await connection.execute("ROLLBACK")
    move = await handoff.ends()
    assert (move.attempt, move.waits_for) == (1, "")


async def test_a_move_that_waits_for_a_transaction_can_be_cancelled(handoff: Handoff) -> None:
    """And what it has begun is cleared away while the transaction still lasts."""
    async with await connect(handoff.cluster.nodes[handoff.source].postgres_dsn) as connection:
        await connection.execute("BEGIN")
        await connection.execute("SELECT pg_current_xact_id()")
        handoff.number = await apply(handoff.cluster.topology_dsn, handoff.slot, handoff.target)
        await _waits(handoff, "has to end first")
        await handoff.moves.cancel([handoff.number], "test")
        await handoff.ends(MoveState.CANCELLED)


async def test_a_source_that_cannot_be_compared_with_is_named(handoff: Handoff) -> None:
    """The slot is served by then; both copies are compared when the source is back."""
    await handoff.begin_until(handoff.source, "moved")
    with handoff.failpoints.kept_dead(handoff.source):
        handoff.kill(handoff.source)
        await _waits(handoff, f"node {handoff.source} does not answer")
    await handoff.ends()


async def test_a_reader_that_keeps_a_copy_in_its_place_is_told_of(handoff: Handoff) -> None:
    """The slot is served elsewhere; what its source keeps is set aside when the reader has ended."""
    await handoff.begin_until(handoff.source, "leaving")
    async with await connect(handoff.cluster.nodes[handoff.source].postgres_dsn) as reader:
        await reader.execute("BEGIN")
        await reader.execute("SELECT FROM edges LIMIT 1")
        handoff.release(handoff.source)

        async def untold() -> list[str]:
            move = await handoff.move()
            return [] if "lock timeout" in move.last_error else [f"{move.state}, {move.last_error!r}"]

        await nothing(untold)
        assert (await handoff.move()).state is MoveState.ACTIVE
    assert (await handoff.ends()).last_error == ""


async def test_a_source_that_still_holds_the_slot_is_named(handoff: Handoff) -> None:
    """As with a database that was restored from a backup of before the move: nothing of it is touched."""
    await handoff.begin_until(handoff.source, "leaving")
    async with await connect(handoff.cluster.nodes[handoff.source].postgres_dsn) as connection:
        await connection.execute("UPDATE slots SET state = 'owner' WHERE slot = %s", [handoff.slot])
        handoff.release(handoff.source)
        await _waits(handoff, f"node {handoff.source}'s database holds the slot too")
        await connection.execute("UPDATE slots SET state = 'moved' WHERE slot = %s", [handoff.slot])
    assert (await handoff.ends()).waits_for == ""


async def _waits(handoff: Handoff, reason: str) -> SlotMove:
    """The move, as soon as it waits for a reason with these words."""

    async def something_else() -> list[str]:
        move = await handoff.move()
        return [] if reason in move.waits_for else [f"{move.state}, {move.waits_for!r}, {move.last_error!r}"]

    await nothing(something_else)
    return await handoff.move()
