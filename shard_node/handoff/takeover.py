"""The part of a move in which the slot takes no writes: freeze, drain, commit, serve.

Before the commit the attempt may be aborted. From it on there is only one way, and whoever comes goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from likering.errors import LikeringError, ShardUnavailable, TopologyUnavailable
from likering.shard.v1 import shard_service_pb2 as pb
from likering.topology.moves import MoveChanged, MoveState
from shard_node import user_store
from shard_node.handoff import replication, steps
from shard_node.handoff.forecast import DRAIN_SHARE
from shard_node.handoff.pause import Pause
from shard_node.handoff.replication import Origin, Sums
from shard_node.handoff.target import TargetMove, end
from shard_node.ownership import READ_LEASE
from shard_node.purge_marks import PurgeMark, Purges
from shard_node.store import Connection, execute

log = structlog.get_logger(__name__)

READS_PATIENCE = 0.005
"""Seconds that a commit waits for the source's word that its reads have ended, if the answer to the freeze did not say
so: a step more would take as long."""


async def freeze_and_take_over(move: TargetMove, own: Connection, origin: Origin) -> None:
    """Has the source freeze the slot, and takes it over once everything is here; else aborts, and raises MoveChanged.

    ``own`` is a connection to this node's Postgres; ``origin`` what the copy was made of.
    """
    with_sums = await replication.summable(own, move.now.slot)
    await move.advance(MoveState.FREEZING)
    arriving = asyncio.create_task(replication.sealed(own, move.attempt, with_sums=with_sums))
    try:
        # Before the answer nothing is known to be frozen; from it on the pause counts.
        answer = await move.target.peers.freeze_slot(move.now, with_sums=with_sums)
        pause = Pause(answer.frozen_us)
        pause.done("answered")
        steps.reached("frozen", move.now)
        async with _stopping_reads(move, ended=answer.reads_ended) as stopping:
            await _drain(move, answer, arriving, origin, pause)
            await _commit(move, answer, stopping)
            pause.done("committed")
            await _activate(move, stopping, pause, answer)
    finally:
        await end(arriving)


async def take_over_at_last(move: TargetMove) -> None:
    """Serves a slot that a process of before has committed to take."""
    async with _stopping_reads(move, ended=False) as stopping:
        await _activate(move, stopping)


async def _drain(
    move: TargetMove,
    answer: pb.FreezeSlotResponse,
    arriving: asyncio.Task[Sums | None],
    origin: Origin,
    pause: Pause,
) -> None:
    """Returns when everything is here that the source has. Otherwise aborts, and raises MoveChanged."""
    answering = Origin(answer.system_identifier, answer.timeline)
    if answering != origin:
        # What came by replication may be more, or less, than what the promoted standby has.
        await move.abort(f"the source's Postgres is {answering} by now; the copy was made of {origin}")
        raise MoveChanged("aborted")
    patience = move.target.limits().pause_budget_ms / 1000 * DRAIN_SHARE
    await asyncio.wait((arriving,), timeout=max(0.0, patience - pause.seconds))
    if not arriving.done():
        await move.abort(f"the last changes had not arrived {patience * 1000:.0f} ms after the freeze")
        raise MoveChanged("aborted")
    here = arriving.result()
    there = Sums(answer.sums.posts, answer.sums.versions, answer.sums.likes)
    if here is not None and here != there:
        await move.abort(f"after all changes the source has {there}, the target {here}")
        raise MoveChanged("aborted")
    pause.done("drained")
    steps.reached("drained", move.now)


async def _commit(move: TargetMove, answer: pb.FreezeSlotResponse, stopping: asyncio.Task[None]) -> None:
    """Makes this node the slot's owner; to ACTIVATING at once if the source has ended its reads by now."""
    target = move.target
    target.ownership.arrives(move.now.slot, move.now.epoch + 1)
    await asyncio.wait((stopping,), timeout=READS_PATIENCE)
    reads_ended = stopping.done() and stopping.exception() is None
    to = MoveState.ACTIVATING if reads_ended else MoveState.COMMITTED
    detail = {"posts": answer.sums.posts, "likes": answer.sums.likes} if answer.HasField("sums") else {}
    while move.now.state is MoveState.FREEZING:
        try:
            move.now = await target.moves.commit(move.now, to, target.name, detail, last_rev=answer.last_rev)
        except MoveChanged:
            await move.let_source_look()
            raise
        except TopologyUnavailable:
            # Committed or not, nobody knows. Serve neither way.
            await move.reread(MoveState.FREEZING, to)
    steps.reached(to.value, move.now)


async def _activate(
    move: TargetMove,
    stopping: asyncio.Task[None],
    pause: Pause | None = None,
    answer: pb.FreezeSlotResponse | None = None,
) -> None:
    """Serves the slot, once the source's reads of it have ended.

    ``pause``, ``answer``: of the freeze, unless a process of before has had it frozen. Then nobody knows how far the
    slot's changes have been told to the users' side, so all is told again.
    """
    target, slot, epoch = move.target, move.now.slot, move.now.epoch + 1
    target.ownership.arrives(slot, epoch)
    while move.now.state is MoveState.COMMITTED:
        try:
            await move.advance(MoveState.ACTIVATING)
        except TopologyUnavailable:
            await move.reread(MoveState.COMMITTED, MoveState.ACTIVATING)
    await stopping
    marks = None if answer is None else _marks(answer)

    async def take(connection: Connection) -> None:
        # Not before the disk has it: whatever is written to the slot comes later in the log, and is waited for.
        await connection.execute("SET LOCAL synchronous_commit = off")
        of_seal = {"slot": slot, "move": move.now.move, "attempt": move.now.attempt}
        await execute(connection, "take_slot", {**of_seal, "epoch": epoch})
        await user_store.take_marks(connection, slot, marks)

    if target.ownership.owned.get(slot) != epoch:
        purges = None if answer is None else _purges(slot, answer)
        await target.writer.change_slots(take, last_rev=move.now.last_rev or 0, purges=purges)
    steps.reached("serving", move.now)
    detail: dict[str, object] = {}
    facts: dict[str, object] = {}
    if pause is not None:
        pause.done("serving")
        target.tally.pause_seconds.add(pause.seconds)
        detail = {"pause_ms": pause.steps}
        facts = {"pause_us": round(pause.steps["serving"] * 1000)}
    # ACTIVE lets the source's copy go, so from there on the taking must outlive a crash.
    if not await target.writer.barrier():
        raise ShardUnavailable
    while move.now.state is MoveState.ACTIVATING:
        try:
            await move.advance(MoveState.ACTIVE, detail, waits_for="", last_error="", **facts)
        except TopologyUnavailable:
            await move.reread(MoveState.ACTIVATING, MoveState.ACTIVE)


def _marks(answer: pb.FreezeSlotResponse) -> user_store.Marks | None:
    if not answer.HasField("user_feed"):
        return None
    told = answer.user_feed
    return user_store.Marks(told.routes, dict(zip(told.nodes, told.revs, strict=True)))


def _purges(slot: int, answer: pb.FreezeSlotResponse) -> Purges | None:
    # Reading them in the slot's rows would be the longest step of the pause.
    if not answer.HasField("purging"):
        return None
    told = answer.purging
    return Purges(
        [(mark.id, PurgeMark(slot, mark.began)) for mark in told.posts],
        [(mark.id, PurgeMark(slot, mark.began)) for mark in told.users],
    )


@asynccontextmanager
async def _stopping_reads(move: TargetMove, *, ended: bool) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends when the source reads the slot no more. ``ended``: it has said so already."""
    stopping = asyncio.create_task(_stop_reads(move, time.monotonic(), ended=ended))
    try:
        yield stopping
    finally:
        await end(stopping)


async def _stop_reads(move: TargetMove, word_at: float, *, ended: bool) -> None:
    if ended:
        return
    try:
        await move.target.peers.stop_reads(move.now)
    except LikeringError as error:
        log.warning("the source does not say that it has ended its reads", reason=error.message)
        await asyncio.sleep(max(0.0, word_at + READ_LEASE - time.monotonic()))
