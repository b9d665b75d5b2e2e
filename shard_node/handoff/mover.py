"""Keeps this node in step with the moves in the topology database, as their target and as their source.

It begins nothing of its own: each round reads the moves, and does what they ask of this node. Whoever dies, here or
elsewhere, is replaced by a round that reads them anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from likering.errors import LikeringError, TopologyUnavailable
from likering.topology import wait_reasons
from likering.topology.moves import UNDER_WAY, MoveChanged, MoveLimits, MoveState, MoveStore, SlotMove
from shard_node.handoff import leftovers
from shard_node.handoff.pull import Pull, PullFailed
from shard_node.handoff.retries import UNSERVED, Retries
from shard_node.handoff.source import Source
from shard_node.handoff.target import Target
from shard_node.store import Connection, FenceLost
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

ROUND = 1.0
"""Seconds between two looks at the moves when nothing is told."""
SIGN = 2.0
"""Seconds after which a node that has said nothing of its moves says that it lives: who is silent is taken for dead."""
CLEARING = 5.0
"""Seconds between two looks for leftovers when no move has ended."""
LISTEN_AGAIN = 0.5
"""Seconds after which the connection that tells of changes is made again."""

TROUBLE = (LikeringError, psycopg.Error, PoolTimeout, OSError, TimeoutError, FenceLost)
"""What databases and peers that are away for a while raise."""

_ONCE_BEGUN = frozenset((MoveState.COPYING, MoveState.CATCHING_UP, MoveState.FREEZING, MoveState.ABORTED))
_PULLED = UNSERVED | {MoveState.PLANNED, MoveState.MOVED}


def must_wait(move: SlotMove, busy: Mapping[str, int], limits: MoveLimits) -> str:
    """Why a planned move may not begin now; empty when it may. ``MoveStore.begin`` has the last word.

    ``busy``: in how many moves that are under way each node takes part.
    """
    if move.state is not MoveState.PLANNED:
        return ""
    if limits.paused:
        return wait_reasons.PAUSED
    for name in (move.source, move.target):
        if busy.get(name, 0) >= limits.slots_at_once:
            return wait_reasons.busy(name)
    return ""


def _say_bugs(task: asyncio.Task[None]) -> None:
    """Lets the event loop report what nobody awaits."""
    if not task.cancelled():
        task.result()


class Mover:
    """The moves of one node. ``run`` it as a task."""

    def __init__(
        self,
        node_name: str,
        source: Source,
        target: Target,
        moves: MoveStore,
        pool: AsyncConnectionPool[Connection],
        writer: Writer,
        own: Callable[[], Collection[int]],
        on_limits: Callable[[MoveLimits], None],
    ) -> None:
        """``own``: the slots that the database or the topology gives to this node. ``on_limits`` is told the limits."""
        self._node_name = node_name
        self._source = source
        self._target = target
        self._moves = moves
        self._pool = pool
        self._writer = writer
        self._own = own
        self._on_limits = on_limits
        self._pulls: dict[int, asyncio.Task[None]] = {}
        self._keeping_house: asyncio.Task[None] | None = None
        self._retries = Retries()
        self._rests_until = 0.0
        self._look = asyncio.Event()
        self.seen: Sequence[SlotMove] = ()
        """The moves that this node takes part in, as the last round found them."""
        self._clear_at = 0.0
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Mover of {self._node_name}, {len(self._pulls)} pulls>"

    def look_soon(self) -> None:
        """Looks at the moves now instead of at the next round."""
        self._look.set()

    async def run(self) -> None:
        """Does what the moves ask, for as long as the task lives."""
        await self._writer.led.wait()
        listening = asyncio.create_task(self._listen(), name="moves told of")
        try:
            while True:
                self._look.clear()
                try:
                    await self._round()
                except TROUBLE as error:
                    self._note(error)
                except Exception:
                    # The node serves on; a task that died here would end its process, and all its slots with it.
                    log.exception("tending the moves failed by a bug")
                else:
                    self._trouble = ""
                try:
                    async with asyncio.timeout(min(ROUND, self._rest or ROUND)):
                        await self._look.wait()
                except TimeoutError:
                    pass
        finally:
            tasks = [
                listening,
                *self._pulls.values(),
                *([self._keeping_house] if self._keeping_house else []),
            ]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._moves.changes()) as changes:
                    async for name in changes:
                        if name in ("", self._node_name):
                            self._look.set()
            except LikeringError:
                pass  # the rounds say why
            except Exception:
                log.exception("listening for moves failed by a bug")
            await asyncio.sleep(LISTEN_AGAIN)

    async def _round(self) -> None:
        limits = await self._moves.limits()
        self._on_limits(limits)
        moves = self.seen = await self._moves.to_do(self._node_name)
        # Those that this very round begins, and those that were begun and are not noted yet, are under way too.
        busy = Counter(
            name
            for move in moves
            if move.state in UNDER_WAY or (move.state is MoveState.PLANNED and move.move in self._pulls)
            for name in (move.source, move.target)
        )
        for move in moves:
            if move.target == self._node_name and move.move not in self._pulls:
                reason = must_wait(move, busy, limits)
                if not reason and move.state is MoveState.PLANNED and self._rest:
                    continue
                if not reason:
                    if self._begin(move) and move.state is MoveState.PLANNED:
                        busy.update((move.source, move.target))
                elif reason != move.waits_for:
                    await self._moves.report(move, waits_for=reason)
        await self._give_sign(moves)
        self._retries.keep({move.move for move in moves})
        await self._source.tend_frozen(moves)
        if self._keeping_house is None or self._keeping_house.done():
            # Apart: it may wait for whoever reads the tables, and a frozen slot must not.
            self._keeping_house = asyncio.create_task(
                self._keep_house(moves, limits.grace_seconds), name="housekeeping"
            )
            self._keeping_house.add_done_callback(_say_bugs)

    async def _give_sign(self, moves: Sequence[SlotMove]) -> None:
        """One word about one move tells that this node lives, whatever the others wait for."""
        own = [move for move in moves if move.actor == self._node_name]
        if own and min(move.word_age for move in own) > SIGN:
            await self._moves.report(own[0])

    async def _keep_house(self, moves: Sequence[SlotMove], grace: float) -> None:
        """Tends the copies that this node keeps, and drops what moves have left; each failure is its own."""
        for move in moves:
            try:
                await self._source.tend_copy(move, grace)
            except TROUBLE as error:
                log.info("cannot tend a copy yet", slot=move.slot, move=move.move, error=repr(error))
                with suppress(TopologyUnavailable):
                    await self._moves.report(move, last_error=f"{type(error).__name__}: {error}")
        try:
            await self._source.tend_given_up(moves)
        except TROUBLE as error:
            log.info("cannot set a slot aside yet that was moved without this node", error=repr(error))
        if time.monotonic() < self._clear_at:
            return
        self._clear_at = time.monotonic() + CLEARING
        try:
            async with self._target.clearing, self._pool.connection() as connection:
                await leftovers.clear(
                    connection, self._moves, self._node_name, self._own, self._target.generation()
                )
        except TROUBLE as error:
            log.info("cannot clear what moves have left yet", error=repr(error))

    def _begin(self, move: SlotMove) -> bool:
        if move.state not in _PULLED | _ONCE_BEGUN:
            return False
        if not self._retries.may_try(move):
            return False
        task = asyncio.create_task(self._pull(move), name=f"pull {move.move}")
        self._pulls[move.move] = task

        def ended(task: asyncio.Task[None]) -> None:
            del self._pulls[move.move]
            if not task.cancelled():
                task.result()

        task.add_done_callback(ended)
        return True

    async def _pull(self, move: SlotMove) -> None:
        pull = Pull(self._target, move, self._rest_for)
        try:
            if move.state in _ONCE_BEGUN:
                # No pull of this process works on it, so one of a process before did; or it was aborted.
                await pull.restart()
                self._retries.failed(move.move)
            elif not await pull.run():
                self._retries.failed(move.move)
        except MoveChanged as error:
            self._went_another_way(move, error)
        except Exception as error:  # the boundary of a task: the move says what it was, and is tried again
            await self._give_up(pull, move, error)
        self._clear_at = 0.0
        self._look.set()

    async def _give_up(self, pull: Pull, move: SlotMove, error: Exception) -> None:
        try:
            await pull.give_up(error)
        except MoveChanged as changed:
            # Cancelled, most likely, and what it worked on was cleared away under it.
            self._went_another_way(move, changed)
            return
        except TROUBLE as second:
            log.info("the move could not be given up yet", move=move.move, error=repr(second))
        self._target.tally.failed += 1
        expected = isinstance(error, (*TROUBLE, PullFailed))
        log.warning(
            "a move failed",
            slot=move.slot,
            move=move.move,
            error=repr(error),
            exc_info=None if expected else error,
        )
        self._retries.failed(move.move)

    def _went_another_way(self, move: SlotMove, error: MoveChanged) -> None:
        log.info("a move went another way", slot=move.slot, move=move.move, reason=error.message)
        self._retries.failed(move.move)

    def _rest_for(self, seconds: float) -> None:
        """A move is served; the next one is to wait for so long."""
        self._rests_until = time.monotonic() + seconds

    @property
    def _rest(self) -> float:
        """Seconds in which this node begins no move as a target."""
        return max(0.0, self._rests_until - time.monotonic())

    def _note(self, error: Exception) -> None:
        """Says what is wrong once, not every second."""
        text = repr(error)
        if text != self._trouble:
            log.warning("cannot tend the moves", error=text)
        self._trouble = text
