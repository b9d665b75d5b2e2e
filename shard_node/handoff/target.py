"""A move as its target drives it: every transition a compare-and-set in the topology database, and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from likering.errors import LikeringError, TopologyUnavailable
from likering.topology.move_names import Attempt
from likering.topology.moves import MoveChanged, MoveLimits, MoveState, MoveStore, SlotMove
from shard_node.handoff import steps
from shard_node.handoff.links import Links
from shard_node.handoff.peers import Peers
from shard_node.ownership import Ownership
from shard_node.row_budget import RowBudget
from shard_node.tallies import MoveTally
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

RETRY = 0.25
"""Seconds between two tries of what must succeed in the end."""


@dataclass(frozen=True, slots=True)
class Target:
    """The node that pulls: what all its moves share."""

    name: str
    dsn: str
    schema_version: int
    ownership: Ownership
    writer: Writer
    moves: MoveStore
    peers: Peers
    links: Links
    budget: RowBudget
    clearing: asyncio.Lock
    """Held by whoever drops what moves have left: two at once would be in each other's way."""
    limits: Callable[[], MoveLimits]
    generation: Callable[[], int]
    tally: MoveTally = field(default_factory=MoveTally)


class TargetMove:
    """One attempt of one move. ``now`` is the move as this process knows it.

    Whatever changes it raises MoveChanged when the move is elsewhere by now, and TopologyUnavailable.
    """

    def __init__(self, target: Target, move: SlotMove) -> None:
        self.target = target
        self.now = move
        self.attempt = Attempt(move.slot, move.move, move.attempt)
        self._waits_for = move.waits_for

    def __repr__(self) -> str:
        return f"<TargetMove {self.now}, {self.now.state}>"

    async def advance(self, to: MoveState, detail: dict[str, object] | None = None, **facts: object) -> None:
        """To the next state, noting facts."""
        self.now = await self.target.moves.advance(self.now, to, self.target.name, detail, **facts)
        self.target.tally.reached[to.value] += 1
        steps.reached(to.value, self.now)

    async def abort(self, reason: str) -> None:
        """FREEZING → ABORTED, and the source goes on at once."""
        try:
            await self.advance(MoveState.ABORTED, {"reason": reason}, last_error=reason)
        finally:
            await self.let_source_look()

    async def let_source_look(self) -> None:
        """Has the source see at once whether it may go on.

        Also when the move was cancelled: of that it may have been told before it froze the slot.
        """
        try:
            await self.target.peers.unfreeze_slot(self.now)
        except LikeringError as error:
            log.info("the source will find out by itself that it may go on", reason=error.message)

    async def reread(self, *expected: MoveState) -> None:
        """After a change whose outcome nobody knows: reads until there is an answer.

        Raises MoveChanged unless the move is in one of these states, at this attempt.
        """
        while True:
            await asyncio.sleep(RETRY)
            try:
                self.now = await self.target.moves.move(self.now.move)
            except TopologyUnavailable:
                continue
            if self.now.state not in expected or self.now.attempt != self.attempt.attempt:
                raise self.elsewhere()
            return

    def elsewhere(self) -> MoveChanged:
        """The error that says so."""
        return MoveChanged(f"The {self.now} is {self.now.state} by now")

    async def report(self, **facts: object) -> None:
        """Notes facts (columns), and that this node works on it."""
        await self.target.moves.report(self.now, **facts)

    async def wait_for(self, reason: str, **facts: object) -> None:
        """Notes why the move does not go on, and facts. Empty: it does."""
        if reason and reason != self._waits_for:
            log.info("a move waits", slot=self.now.slot, move=self.now.move, reason=reason)
        self._waits_for = reason
        await self.report(waits_for=reason, **facts)

    async def go_on(self) -> None:
        """Notes that there is nothing to wait for any more, if there was."""
        if self._waits_for:
            await self.wait_for("")


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task. Whatever it ends with: who needs its result has asked for it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
