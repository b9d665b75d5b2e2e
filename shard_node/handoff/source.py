"""The source's side of a handoff: freezes a slot, lets it go on or sets its copy aside, as the topology database says.

Nothing here is decided by a timer. A target that gives no sign for a while makes the source *ask* for an end of the
move, by a compare-and-set that the target's commit may win.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from likering.errors import ShardUnavailable, SlotMoving
from likering.shard.v1 import shard_service_pb2 as pb
from likering.topology import wait_reasons
from likering.topology.move_names import Attempt, kept
from likering.topology.moves import ENDED, UNCOMMITTED, MoveChanged, MoveState, MoveStore, SlotMove
from shard_node.handoff import replication, steps
from shard_node.handoff.replication import Sums
from shard_node.handoff.rests import Rests
from shard_node.ownership import HeldSlot, Ownership, SlotState
from shard_node.partitions import PARENTS, rename_unowned
from shard_node.purge_marks import PurgeMark
from shard_node.slot_change import RefusedJob
from shard_node.store import Connection, Cursor, execute
from shard_node.user_store import Marks
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

SILENCE = 1.0
"""Seconds without a word of the target after which the source asks for an end of a move that has frozen its slot."""


class Fate(Enum):
    """What is to become of a frozen slot."""

    WAIT = auto()
    GO_ON = auto()
    """The move has ended, or another attempt has begun: the slot is the source's at its old epoch."""
    GO_ON_REVERTED = auto()
    """The slot was given back, two epochs later."""
    ASK_FOR_THE_END = auto()
    """The target is silent, and has not committed."""
    SET_ASIDE = auto()
    """The target serves."""


def fate(held: HeldSlot, move: SlotMove | None, silence: float) -> Fate:
    """What is to become of a slot that is frozen, by what the topology database says of its move.

    ``move`` may have been read before the slot was frozen. ``silence``: seconds since the target's last word. An
    unknown move means that nothing is known: wait.
    """
    if move is None:
        return Fate.WAIT
    match move.state:
        case MoveState.REVERTED:
            return Fate.GO_ON_REVERTED
        case MoveState.CANCELLED:
            return Fate.GO_ON
        case state if state in UNCOMMITTED and move.attempt != held.attempt:
            # A later attempt says that this one is over. An earlier one was read before this one froze the slot.
            return Fate.GO_ON if move.attempt > (held.attempt or 0) else Fate.WAIT
        case MoveState.ABORTED:
            return Fate.GO_ON
        case MoveState.PLANNED | MoveState.COPYING | MoveState.CATCHING_UP:
            # Read before the freeze, for whoever freezes says so in the topology first.
            return Fate.WAIT
        case MoveState.FREEZING:
            return Fate.ASK_FOR_THE_END if silence > SILENCE else Fate.WAIT
        case MoveState.COMMITTED | MoveState.ACTIVATING:
            return Fate.WAIT
        case _:
            return Fate.SET_ASIDE


class Seal(NamedTuple):
    """What a frozen slot holds for good."""

    last_rev: int
    timeline: int
    sums: Sums | None
    """None: they were not asked for."""


class Source:
    """Gives slots away, for one node."""

    def __init__(
        self,
        node_name: str,
        system_identifier: str,
        ownership: Ownership,
        writer: Writer,
        pool: AsyncConnectionPool[Connection],
        moves: MoveStore,
        generation: Callable[[], int],
        marks: Callable[[int], Marks | None],
    ) -> None:
        self._marks = marks
        self._generation = generation
        self._node_name = node_name
        self._system_identifier = system_identifier
        self._ownership = ownership
        self._writer = writer
        self._pool = pool
        self._moves = moves

    def __repr__(self) -> str:
        return f"<Source {self._node_name} {self._ownership!r}>"

    async def freeze(self, request: pb.FreezeSlotRequest) -> pb.FreezeSlotResponse:
        """Ends the writes to a slot and seals it. Raises SlotMoving when the slot is not this node's to freeze.

        Returns after the commit; for a slot that is frozen already, after another one, so that the answer is as good
        as the first one was: with a synchronous standby a commit may be seen before it is safe.
        """
        slot, move, attempt = request.slot, request.move, request.attempt
        self._ownership.heard_of(slot)
        held = self._ownership.held.get(slot)
        if held is None or held.epoch != request.epoch:
            raise SlotMoving(f"slot {slot} is not {self._node_name}'s at epoch {request.epoch}")
        if held.state is SlotState.FROZEN and (held.move, held.attempt) == (move, attempt):
            if not await self._writer.barrier():
                raise ShardUnavailable
            frozen_at = time.monotonic()
            seal = await self._sealed(request)
        else:
            seal = await self._freeze(request)
            frozen_at = time.monotonic()
        if request.end_reads:
            self._ownership.stop_reads(slot)
        else:
            self._ownership.read_on(slot)
        return pb.FreezeSlotResponse(
            last_rev=seal.last_rev,
            frozen_us=round((time.monotonic() - frozen_at) * 1e6),
            sums=_told(seal.sums),
            system_identifier=self._system_identifier,
            timeline=seal.timeline,
            reads_ended=request.end_reads,
            user_feed=_marks_told(self._marks(slot)),
            # No purge begins or ends in a slot that is frozen.
            purging=pb.PurgeMarks(
                posts=_purges_told(self._writer.purge_marks.of_slot(slot)),
                users=_purges_told(self._writer.user_purge_marks.of_slot(slot)),
            ),
        )

    async def _sealed(self, request: pb.FreezeSlotRequest) -> Seal:
        """The seal of a slot that is frozen already."""
        try:
            return await self._read_seal(request)
        except psycopg.OperationalError:
            # Pooled connections may still be to a server that has been restarted or replaced; the writer's is not.
            await self._pool.check()
            return await self._read_seal(request)

    async def _read_seal(self, request: pb.FreezeSlotRequest) -> Seal:
        async with self._pool.connection() as connection, connection.pipeline():
            return await _seal(*await _reading_seal(connection, request))

    async def _freeze(self, request: pb.FreezeSlotRequest) -> Seal:
        names = {"slot": request.slot, "move": request.move, "attempt": request.attempt}
        seals: list[Seal] = []

        async def freeze(connection: Connection) -> None:
            freezing = await execute(connection, "freeze_slot", {**names, "epoch": request.epoch})
            await execute(connection, "seal_slot", names)
            # Nothing but the writer changes what is read here, so it is as good as read after the commit, and sooner.
            reading = await _reading_seal(connection, request)
            if await freezing.fetchone() is None:
                raise RefusedJob
            seals.append(await _seal(*reading))

        try:
            await self._writer.change_slots(freeze)
        except RefusedJob as error:
            raise SlotMoving(f"slot {request.slot} is not {self._node_name}'s to freeze") from error
        except (psycopg.Error, ConnectionError, TimeoutError) as error:
            raise ShardUnavailable from error
        steps.reached("sealed", Attempt(request.slot, request.move, request.attempt))
        return seals[-1]

    def stop_reads(self, request: pb.StopReadsRequest) -> None:
        """Ends the reads of a slot that is frozen for this attempt."""
        held = self._ownership.held.get(request.slot)
        if held is not None and (held.move, held.attempt) == (request.move, request.attempt):
            self._ownership.stop_reads(request.slot)
            steps.reached("reads_ended", Attempt(request.slot, request.move, request.attempt))

    async def tend_frozen(self, moves: Sequence[SlotMove]) -> None:
        """Lets frozen slots go on as soon as their moves say so. Raises psycopg.Error and TopologyUnavailable."""
        by_number = {move.move: move for move in moves}
        for slot, held in list(self._ownership.held.items()):
            if held.state is SlotState.FROZEN and held.move is not None:
                await self._tend_frozen(slot, held, by_number.get(held.move))

    async def tend_copy(self, move: SlotMove, grace: float) -> None:
        """Sets the copy of a slot aside that its target serves, and drops it when it has been verified for ``grace``.

        In seconds. Raises psycopg.Error and TopologyUnavailable. May wait for readers of the tables.
        """
        if move.source == self._node_name and move.state is MoveState.ACTIVE:
            await self._set_aside(move)
        elif move.source == self._node_name and move.state is MoveState.VERIFIED and move.state_age >= grace:
            await self._retire(move)

    async def tend_given_up(self, moves: Sequence[SlotMove]) -> None:
        """Sets slots aside whose moves were ended without this node, which had been given up as lost.

        The copies stay: nobody has compared them. Raises as ``tend_copy``, and may wait as that.
        """
        unended = {move.move for move in moves}
        for held in list(self._ownership.held.values()):
            if held.state is SlotState.FROZEN and held.move is not None and held.move not in unended:
                move = await self._moves.move(held.move)
                if move.state is MoveState.RETIRED:
                    await self._set_aside(move)

    async def _tend_frozen(self, slot: int, held: HeldSlot, move: SlotMove | None) -> None:
        assert held.move is not None
        if move is None:
            # Not among those with something left to do: it has ended, and how is to be asked for.
            try:
                move = await self._moves.move(held.move)
            except MoveChanged:
                log.exception("a slot is frozen for a move that the topology does not know", slot=slot)
        match fate(held, move, self._ownership.silence(slot)):
            case Fate.GO_ON:
                await self._unfreeze(slot, held, held.epoch)
            case Fate.GO_ON_REVERTED:
                await self._unfreeze(slot, held, held.epoch + 2)
            case Fate.ASK_FOR_THE_END:
                assert move is not None
                log.warning("the target of a frozen slot gives no sign", slot=slot, move=move.move)
                try:
                    await self._moves.advance(
                        move,
                        MoveState.ABORTED,
                        self._node_name,
                        last_error="the target gave no sign while frozen",
                    )
                except MoveChanged:
                    return  # the next look says what it is now
                await self._unfreeze(slot, held, held.epoch)
            case Fate.WAIT | Fate.SET_ASIDE:
                pass

    async def _unfreeze(self, slot: int, held: HeldSlot, epoch: int) -> None:
        async def go_on(connection: Connection) -> None:
            of_attempt = {"slot": slot, "move": held.move, "attempt": held.attempt}
            await execute(connection, "unfreeze_slot", {**of_attempt, "epoch": epoch})

        await self._writer.change_slots(go_on)
        log.info("a frozen slot goes on", slot=slot, epoch=epoch, move=held.move)

    async def _set_aside(self, move: SlotMove) -> None:
        """The target serves: the slot's rows leave the partitioned tables and are kept under a name of the move's.

        ``move`` is ACTIVE, or was retired meanwhile.
        """
        rests = Rests(lambda: self._writer.load.in_use)
        held = self._ownership.held.get(move.slot)
        if held is not None and held.move == move.move and held.state is SlotState.FROZEN:

            async def note(connection: Connection) -> None:
                await execute(connection, "slot_moved", {"slot": move.slot, "move": move.move})

            await self._writer.change_slots(note)
            steps.reached("leaving", move)
            await rests.after_step()
        names = {parent: kept(parent, move.slot, move.move) for parent in PARENTS}
        async with self._pool.connection() as connection:
            if not await rename_unowned(connection, move.slot, names, self._generation()):
                log.error("a slot that its target serves is held here too", slot=move.slot, move=move.move)
                await self._moves.report(
                    move,
                    waits_for=wait_reasons.held_twice(self._node_name, move.target),
                )
                return
            steps.reached("renamed", move)
            await rests.after_step()
            for parent, name in names.items():
                await detach(connection, parent, name)
                await rests.after_step()
        steps.reached("set_aside", move)
        if move.state is MoveState.RETIRED:
            log.warning("keeps the copy of a slot that nobody has compared", slot=move.slot, move=move.move)
            return
        await self._advance(move, MoveState.MOVED, waits_for="", last_error="")

    async def _retire(self, move: SlotMove) -> None:
        """Drops the copy: the disk space is back at once."""
        async with self._pool.connection() as connection:
            for parent in PARENTS:
                await connection.execute(
                    SQL("DROP TABLE IF EXISTS {}").format(Identifier(kept(parent, move.slot, move.move)))
                )
        steps.reached("dropped", move)

        async def retire(connection: Connection) -> None:
            await execute(connection, "retire_slot", {"slot": move.slot, "move": move.move})

        await self._writer.change_slots(retire)
        await self._advance(move, MoveState.RETIRED)

    async def _advance(self, move: SlotMove, to: MoveState, **facts: Any) -> None:
        try:
            moved = await self._moves.advance(move, to, self._node_name, **facts)
        except MoveChanged:
            return
        assert moved.state not in ENDED or to in ENDED
        steps.reached(to.value, moved)


async def _reading_seal(
    connection: Connection, request: pb.FreezeSlotRequest
) -> tuple[Cursor, Cursor | None]:
    """Asks for the seal, and for the sums if they are wanted; ``_seal`` reads the results."""
    names = {"slot": request.slot, "move": request.move, "attempt": request.attempt}
    sealing = await execute(connection, "read_seal", names)
    if request.without_sums:
        return sealing, None
    return sealing, await replication.reading_sums(connection, request.slot)


async def _seal(sealing: Cursor, summing: Cursor | None) -> Seal:
    row = await sealing.fetchone()
    if row is None:
        raise SlotMoving("the slot has no seal of this attempt")
    last_rev, timeline = row
    return Seal(last_rev, timeline, None if summing is None else await replication.sums_read(summing))


def _told(sums: Sums | None) -> pb.SlotSums | None:
    if sums is None:
        return None
    return pb.SlotSums(posts=sums.posts, versions=sums.versions, likes=sums.likes)


def _marks_told(marks: Marks | None) -> pb.UserFeedMarks | None:
    if marks is None:
        return None
    return pb.UserFeedMarks(routes=marks.routes, nodes=list(marks.by_node), revs=list(marks.by_node.values()))


def _purges_told(purges: Sequence[tuple[str, PurgeMark]]) -> list[pb.PurgeMark]:
    return [pb.PurgeMark(id=of, began=mark.began) for of, mark in purges]


async def detach(connection: Connection, parent: str, name: str) -> None:
    """Takes a partition off its parent, if it is one, without stalling those who use the parent.

    ``connection`` is in autocommit. A detachment that was interrupted is finished. Raises
    ObjectNotInPrerequisiteState while another partition of the parent is being detached: one at a time.
    """
    cursor = await connection.execute(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(%s::text)", [name]
    )
    row = await cursor.fetchone()
    if row is None:
        return
    how = SQL("FINALIZE" if row[0] else "CONCURRENTLY")
    await connection.execute(
        SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(Identifier(parent), Identifier(name), how)
    )
