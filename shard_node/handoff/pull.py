"""One move from its target's side: copy, catch up, have the source freeze, commit, serve, verify.

Every transition is a compare-and-set in the topology database. What a process of before has begun is never gone on
with, up to the commit: another attempt begins. From the commit on there is only one way, and whoever comes goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from likering.errors import LikeringError, TopologyUnavailable
from likering.shard.v1 import shard_service_pb2 as pb
from likering.topology.move_names import Attempt
from likering.topology.moves import MoveChanged, MoveLimits, MoveState, MoveStore, SlotMove
from shard_node.handoff import replication, steps
from shard_node.handoff.copying import RowBudget, copy_tables, estimate_rows, export_snapshot
from shard_node.handoff.forecast import DRAIN_SHARE, Advice, Forecast
from shard_node.handoff.leftovers import clear_slot
from shard_node.handoff.links import Links
from shard_node.handoff.pause import Pause
from shard_node.handoff.peers import Peers
from shard_node.handoff.replication import SEAL, Origin, Sums
from shard_node.handoff.verification import verify
from shard_node.ownership import READ_LEASE, Ownership, SlotState
from shard_node.store import Connection, execute
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

SLOW_FOR = 1.0
"""Seconds for which one request to write less holds."""
PROBE_INTERVAL = 0.02
"""Seconds from one probe to the next: what the copy has held up is made up for meanwhile."""
PROBE_TIMEOUT = 5.0
"""Seconds after which a probe that has not arrived is a reason to wait, and to say so."""
RETRY = 0.25
"""Seconds between two tries of what must succeed in the end."""
REPORT_INTERVAL = 1.0


class PullFailed(Exception):
    """This attempt cannot succeed. The message is for operators."""


@dataclass(frozen=True, slots=True)
class Target:
    """The node that pulls: what all its pulls share."""

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


class Pull:
    """One move. ``run`` it as a task; it ends when the move has been verified, or somebody else has changed it."""

    def __init__(self, target: Target, move: SlotMove, on_served: Callable[[float], None]) -> None:
        """``on_served`` is told, once the slot is served, how many seconds that took."""
        self._began = time.monotonic()
        self._on_served = on_served
        self._target = target
        self._move = move
        self._attempt = Attempt(move.slot, move.move, move.attempt)
        self._waits_for = move.waits_for
        self._probes = 0
        # Known from the begin of the copy on: where the source's Postgres is, and which one it is.
        self._source_dsn = ""
        self._origin: Origin | None = None

    def __repr__(self) -> str:
        return f"<Pull of {self._move}, {self._move.state}>"

    async def run(self) -> bool:
        """Brings the move as far as it gets. False: there was only a reason to wait, which the move tells now.

        Raises MoveChanged, PullFailed and what databases and peers raise.
        """
        try:
            return await self._run()
        except MoveChanged:
            self._target.ownership.arrives_not(self._move.slot)
            raise

    async def _run(self) -> bool:
        if self._move.state is MoveState.PLANNED:
            description = await self._describe_source()
            if description is None:
                return False
            if not await self._begin(description):
                return True  # for the limits: they say when
            async with (
                await self._target.links.to(self._source_dsn) as source,
                await self._target.links.to(self._target.dsn) as own,
            ):
                await self._copy(source, own)
                await self._catch_up(source, own)
                await self._freeze_and_commit(own)
        if self._move.state in (MoveState.COMMITTED, MoveState.ACTIVATING):
            stopping = self._begin_to_stop_reads()
            try:
                await self._activate(stopping)
            finally:
                await _end(stopping)
        return self._move.state is not MoveState.MOVED or await self._verify()

    async def give_up(self, error: Exception) -> None:
        """Says what went wrong, and makes way for another attempt where that is possible."""
        match error:
            case LikeringError():
                message = error.message
            case PullFailed():
                message = str(error)
            case _:
                message = f"{type(error).__name__}: {error}"
        move = self._move
        self._target.ownership.arrives_not(move.slot)
        if move.state is MoveState.FREEZING:
            await self._abort(message)
        if move.state in (MoveState.COPYING, MoveState.CATCHING_UP):
            await self._advance(MoveState.PLANNED, last_error=message)
        else:
            await self._target.moves.report(self._move, last_error=message)

    async def restart(self) -> None:
        """Ends an attempt that nobody works on any more, because its process is gone or could not give it up."""
        if self._move.state is MoveState.FREEZING:
            await self._abort("the attempt was broken off while the slot was frozen")
        if self._move.state in (MoveState.COPYING, MoveState.CATCHING_UP, MoveState.ABORTED):
            await self._advance(MoveState.PLANNED)

    # The steps

    async def _describe_source(self) -> pb.DescribeSourceResponse | None:
        """None when there is a reason to wait."""
        held = self._target.ownership.held.get(self._move.slot)
        if held is not None and held.state is not SlotState.MOVED:
            # What is here would be dropped to make room.
            raise PullFailed(
                f"node {self._target.name} holds slot {self._move.slot} itself, at epoch {held.epoch}"
            )
        try:
            description = await self._target.peers.describe_source(self._move.source)
        except LikeringError as error:
            await self._report_waiting(f"node {self._move.source} does not answer", last_error=error.message)
            return None
        if description.obstacles:
            await self._report_waiting(f"node {self._move.source}: {'; '.join(description.obstacles)}")
            return None
        if description.schema_version != self._target.schema_version:
            await self._report_waiting(
                f"node {self._move.source} has schema version {description.schema_version},"
                f" {self._target.name} has {self._target.schema_version}: bring both to the same version"
            )
            return None
        return description

    async def _begin(self, description: pb.DescribeSourceResponse) -> bool:
        """PLANNED → COPYING. False when the limits do not allow it now."""
        reason = await self._target.moves.begin(self._move, self._target.name)
        if reason:
            await self._report_waiting(reason)
            return False
        self._move = await self._target.moves.move(self._move.move)
        if self._move.state is not MoveState.COPYING or self._move.attempt != self._attempt.attempt:
            raise MoveChanged(f"The {self._move} is {self._move.state} by now")
        self._source_dsn = description.replication_dsn
        self._waits_for = ""
        steps.reached("copying", self._move)
        return True

    async def _copy(self, source: Connection, own: Connection) -> None:
        async with self._target.clearing:
            await clear_slot(own, self._attempt, self._target.generation())
        await replication.publish(source, self._attempt)
        steps.reached("published", self._move)
        async with self._replicating() as replicating:
            self._origin = await replication.identify(replicating)
            snapshot = await export_snapshot(replicating, self._attempt.replication)
            steps.reached("snapshot", self._move)
            total = await estimate_rows(source, self._move.slot)
            copied = 0

            def progress(rows: int) -> None:
                nonlocal copied
                copied = rows

            reporting = asyncio.create_task(self._report_rows(total, lambda: copied))
            try:
                rows = await copy_tables(source, snapshot, own, self._attempt, self._target.budget, progress)
            finally:
                await _end(reporting)
        steps.reached("copied", self._move)
        await replication.attach(own, self._attempt, self._target.generation())
        await replication.subscribe(own, self._source_dsn, self._attempt)
        await self._advance(
            MoveState.CATCHING_UP, {"rows": rows}, rows_total=rows, rows_copied=rows, last_error=""
        )

    async def _catch_up(self, source: Connection, own: Connection) -> None:
        """Returns when a freeze can be expected to keep within the pause budget."""
        forecast = Forecast()
        slowing = asyncio.create_task(self._slow_source(forecast))
        try:
            while True:
                await asyncio.sleep(PROBE_INTERVAL)
                if await self._may_freeze(source, own, forecast):
                    return
        finally:
            await _end(slowing)

    async def _may_freeze(self, source: Connection, own: Connection, forecast: Forecast) -> bool:
        """Sends one more probe; says whether what the probes tell is good enough, or why not."""
        self._probes += 1
        seconds = PROBE_TIMEOUT
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                seconds = await replication.probe(source, own, self._attempt, SEAL + self._probes)
        except TimeoutError:
            await self._check_replication(source, own)
        limits = self._target.limits()
        lag_us = round(seconds * 1e6)
        if limits.paused:
            forecast.forget()
            await self._report_waiting("moves are paused", lag_us=lag_us)
            await asyncio.sleep(RETRY)
            return False
        match forecast.advice(seconds, limits.pause_budget_ms / 1000):
            case Advice.FREEZE:
                await self._target.moves.report(self._move, lag_us=lag_us, waits_for="")
                return True
            case Advice.WAIT:
                await self._report_waiting(
                    f"a freeze now would take about {forecast.pause * 1000:.0f} ms, above the budget of"
                    f" {limits.pause_budget_ms} ms",
                    lag_us=lag_us,
                )
        return False

    async def _slow_source(self, forecast: Forecast) -> None:
        """Has the source write less for as long as it cannot be followed, a long probe's time included."""
        while True:
            await asyncio.sleep(SLOW_FOR / 2)
            if rest := forecast.rest:
                try:
                    await self._target.peers.slow_writes(self._move.source, rest, SLOW_FOR)
                except LikeringError as error:
                    log.info("the source does not write less", reason=error.message)

    async def _freeze_and_commit(self, own: Connection) -> None:
        await self._advance(MoveState.FREEZING)
        arriving = asyncio.create_task(replication.sealed_sums(own, self._attempt))
        try:
            # Before the answer nothing is known to be frozen; from it on the pause counts.
            answer = await self._target.peers.freeze_slot(self._move)
            pause = Pause(answer.frozen_us)
            pause.done("answered")
            steps.reached("frozen", self._move)
            # At once: reads that end too early do no harm, and what follows need not wait for that.
            stopping = self._begin_to_stop_reads()
            try:
                await self._drain(answer, arriving, pause)
                await self._commit(answer, stopping)
                pause.done("committed")
                await self._activate(stopping, pause)
            finally:
                await _end(stopping)
        finally:
            await _end(arriving)

    async def _drain(self, answer: pb.FreezeSlotResponse, arriving: asyncio.Task[Sums], pause: Pause) -> None:
        """Returns when everything is here that the source has. Otherwise aborts, and raises MoveChanged."""
        origin = Origin(answer.system_identifier, answer.timeline)
        if origin != self._origin:
            # What came by replication may be more, or less, than what the promoted standby has.
            await self._abort(
                f"the source's Postgres is {origin} by now; the copy was made of {self._origin}"
            )
            raise MoveChanged("aborted")
        patience = self._target.limits().pause_budget_ms / 1000 * DRAIN_SHARE
        await asyncio.wait((arriving,), timeout=max(0.0, patience - pause.seconds))
        if not arriving.done():
            await self._abort(f"the last changes had not arrived {patience * 1000:.0f} ms after the freeze")
            raise MoveChanged("aborted")
        here = arriving.result()
        there = Sums(answer.sums.posts, answer.sums.versions, answer.sums.likes)
        if here != there:
            await self._abort(f"after all changes the source has {there}, the target {here}")
            raise MoveChanged("aborted")
        pause.done("drained")
        steps.reached("drained", self._move)

    async def _commit(self, answer: pb.FreezeSlotResponse, stopping: asyncio.Task[None]) -> None:
        """Makes this node the slot's owner; to ACTIVATING at once if the source has ended its reads by now."""
        self._target.ownership.arrives(self._move.slot, self._move.epoch + 1)
        reads_ended = stopping.done() and stopping.exception() is None
        to = MoveState.ACTIVATING if reads_ended else MoveState.COMMITTED
        detail = {"posts": answer.sums.posts, "likes": answer.sums.likes}
        while True:
            try:
                self._move = await self._target.moves.commit(
                    self._move, to, self._target.name, detail, last_rev=answer.last_rev
                )
            except TopologyUnavailable:
                # Committed or not, nobody knows. Serve neither way; ask until there is an answer.
                await asyncio.sleep(RETRY)
                self._move = await self._reread()
                if self._move.state is MoveState.FREEZING and self._move.attempt == self._attempt.attempt:
                    continue
                if self._move.state is not to or self._move.attempt != self._attempt.attempt:
                    raise MoveChanged(f"The {self._move} is {self._move.state} by now") from None
            break
        steps.reached(to.value, self._move)

    async def _activate(self, stopping: asyncio.Task[None], pause: Pause | None = None) -> None:
        """Serves the slot, once the source's reads of it have ended. Without a ``pause``: of a process before."""
        move, target = self._move, self._target
        target.ownership.arrives(move.slot, move.epoch + 1)
        while self._move.state is MoveState.COMMITTED:
            try:
                await self._advance(MoveState.ACTIVATING)
            except TopologyUnavailable:
                await asyncio.sleep(RETRY)
                self._move = await self._reread()
                if self._move.state not in (MoveState.COMMITTED, MoveState.ACTIVATING):
                    raise MoveChanged(f"The {self._move} is {self._move.state} by now") from None
        await stopping
        if pause is not None:
            pause.done("reads ended")

        async def take(connection: Connection) -> None:
            await execute(connection, "take_slot", {"slot": move.slot, "epoch": move.epoch + 1})

        if target.ownership.owned.get(move.slot) != move.epoch + 1:
            await target.writer.change_slots(take, last_rev=self._move.last_rev or 0)
        steps.reached("serving", self._move)
        detail: dict[str, object] = {}
        facts: dict[str, object] = {}
        if pause is not None:
            pause.done("serving")
            detail = {"pause_ms": pause.steps}
            facts = {"pause_us": round(pause.steps["serving"] * 1000)}
        while self._move.state is MoveState.ACTIVATING:
            try:
                self._move = await target.moves.advance(
                    self._move,
                    MoveState.ACTIVE,
                    target.name,
                    detail,
                    waits_for="",
                    last_error="",
                    **facts,
                )
            except TopologyUnavailable:
                await asyncio.sleep(RETRY)
                self._move = await self._reread()
        steps.reached("active", self._move)
        self._on_served(time.monotonic() - self._began)

    def _begin_to_stop_reads(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._stop_reads(time.monotonic()))

    async def _stop_reads(self, word_at: float) -> None:
        try:
            await self._target.peers.stop_reads(self._move)
        except LikeringError as error:
            log.warning("the source does not say that it has ended its reads", reason=error.message)
            await asyncio.sleep(max(0.0, word_at + READ_LEASE - time.monotonic()))

    async def _verify(self) -> bool:
        move = self._move
        description = await self._target.peers.describe_source(move.source)
        self._source_dsn = description.replication_dsn
        async with (
            await self._target.links.to(self._source_dsn) as source,
            await self._target.links.to(self._target.dsn) as own,
        ):
            verdict = await verify(source, own, move.slot, move.move, move.last_rev or 0)
        if verdict.problem:
            log.error(
                "a moved slot differs from what its source keeps", slot=move.slot, problem=verdict.problem
            )
            await self._report_waiting(
                f"verification found a difference: {verdict.problem}", last_error=verdict.problem
            )
            return False
        await self._advance(
            MoveState.VERIFIED,
            {"rows": verdict.rows, "changed_since": verdict.changed_since},
            waits_for="",
            last_error="",
        )
        return True

    # Helpers of the steps

    async def _advance(self, to: MoveState, detail: dict[str, object] | None = None, **facts: object) -> None:
        self._move = await self._target.moves.advance(self._move, to, self._target.name, detail, **facts)
        steps.reached(to.value, self._move)

    async def _abort(self, reason: str) -> None:
        """FREEZING → ABORTED, and the source goes on at once. Raises MoveChanged when another way has been taken."""
        await self._advance(MoveState.ABORTED, {"reason": reason}, last_error=reason)
        try:
            await self._target.peers.unfreeze_slot(self._move)
        except LikeringError as error:
            log.info("the source will find out by itself that it may go on", reason=error.message)

    async def _reread(self) -> SlotMove:
        while True:
            try:
                return await self._target.moves.move(self._move.move)
            except TopologyUnavailable:
                await asyncio.sleep(RETRY)

    async def _report_waiting(self, reason: str, **facts: object) -> None:
        if reason != self._waits_for:
            log.info("a move waits", slot=self._move.slot, move=self._move.move, reason=reason)
        self._waits_for = reason
        await self._target.moves.report(self._move, waits_for=reason, **facts)

    async def _report_rows(self, total: int, copied: Callable[[], int]) -> None:
        while True:
            # Not at once: a report that is cut off by the end of a short copy costs the store its connection.
            await asyncio.sleep(REPORT_INTERVAL)
            try:
                await self._target.moves.report(
                    self._move, rows_total=max(total, copied()), rows_copied=copied()
                )
            except TopologyUnavailable as error:
                log.info("cannot report progress", reason=error.message)

    async def _check_replication(self, source: Connection, own: Connection) -> None:
        problem = await replication.subscription_error(
            own, self._attempt
        ) or await replication.replication_slot_problem(source, self._attempt)
        if problem:
            raise PullFailed(problem)

    @asynccontextmanager
    async def _replicating(self) -> AsyncIterator[Connection]:
        connection = await psycopg.AsyncConnection.connect(
            make_conninfo(
                self._source_dsn,
                application_name=f"likering-move-{self._target.name}",
                replication="database",
                connect_timeout=3,
            ),
            autocommit=True,
        )
        async with connection:
            yield connection


async def _end(task: asyncio.Task[Any]) -> None:
    """Whatever it ended with: who needed its result has asked for it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
