"""One move from its target's side: copy, catch up, take over (``takeover``), verify.

What a process of before has begun is never gone on with, up to the commit: another attempt begins. From the commit on
there is only one way, and whoever comes goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from likering.errors import LikeringError, TopologyUnavailable
from likering.shard.v1 import shard_service_pb2 as pb
from likering.topology import wait_reasons
from likering.topology.moves import MoveChanged, MoveState, SlotMove
from shard_node.handoff import replication, steps
from shard_node.handoff.copying import copy_tables, estimate_rows, export_snapshot, in_the_way
from shard_node.handoff.forecast import Advice, Forecast
from shard_node.handoff.leftovers import clear_slot
from shard_node.handoff.replication import SEAL, Origin
from shard_node.handoff.rests import Rests
from shard_node.handoff.takeover import freeze_and_take_over, take_over_at_last
from shard_node.handoff.target import RETRY, Target, TargetMove, end
from shard_node.handoff.verification import verify
from shard_node.ownership import SlotState
from shard_node.store import Connection

log = structlog.get_logger(__name__)

SLOW_FOR = 1.0
"""Seconds for which one request to write less holds."""
PROBE_INTERVAL = 0.02
"""Seconds from one probe to the next: what the copy has held up is made up for meanwhile."""
PROBE_TIMEOUT = 5.0
"""Seconds after which a probe that has not arrived is a reason to wait, and to say so."""
REPORT_INTERVAL = 1.0


class PullFailed(Exception):
    """This attempt cannot succeed. The message is for operators."""


class Pull:
    """One move. ``run`` it as a task; it ends when the move has been verified, or somebody else has changed it."""

    def __init__(self, target: Target, move: SlotMove, on_served: Callable[[float], None]) -> None:
        """``on_served`` is told, once the slot is served, for how many seconds to rest."""
        self._on_served = on_served
        self._target = target
        self._move = TargetMove(target, move)
        self._probes = 0

    def __repr__(self) -> str:
        return f"<Pull of {self._move!r}>"

    async def run(self) -> bool:
        """Brings the move as far as it gets. False: there was only a reason to wait, which the move tells now.

        Raises MoveChanged, PullFailed and what databases and peers raise.
        """
        try:
            return await self._run()
        except MoveChanged:
            self._target.ownership.arrives_not(self._move.now.slot)
            raise

    async def _run(self) -> bool:
        if self._move.now.state is MoveState.PLANNED:
            description = await self._describe_source()
            if description is None:
                return False
            if not await self._begin():
                return True  # for the limits: they say when
            rests = Rests(lambda: description.in_use or self._target.writer.load.in_use)
            async with self._both(description.replication_dsn) as (source, own):
                origin = await self._copy(source, own, description.replication_dsn, rests)
                await self._catch_up(source, own)
                await freeze_and_take_over(self._move, own, origin)
            self._on_served(rests.after_move)
        if self._move.now.state in (MoveState.COMMITTED, MoveState.ACTIVATING):
            await take_over_at_last(self._move)
        return self._move.now.state is not MoveState.MOVED or await self._verify()

    async def give_up(self, error: Exception) -> None:
        """Says what went wrong, and makes way for another attempt where that is possible."""
        match error:
            case LikeringError():
                message = error.message
            case PullFailed():
                message = str(error)
            case _:
                message = f"{type(error).__name__}: {error}"
        self._target.ownership.arrives_not(self._move.now.slot)
        if self._move.now.state is MoveState.FREEZING:
            await self._move.abort(message)
        if self._move.now.state in (MoveState.COPYING, MoveState.CATCHING_UP):
            await self._move.advance(MoveState.PLANNED, last_error=message)
        else:
            await self._move.report(last_error=message)

    async def restart(self) -> None:
        """Ends an attempt that nobody works on any more, because its process is gone or could not give it up."""
        if self._move.now.state is MoveState.FREEZING:
            await self._move.abort("the attempt was broken off while the slot was frozen")
        if self._move.now.state in (MoveState.COPYING, MoveState.CATCHING_UP, MoveState.ABORTED):
            await self._move.advance(MoveState.PLANNED)

    # The steps

    async def _describe_source(self) -> pb.DescribeSourceResponse | None:
        """None when there is a reason to wait."""
        held = self._target.ownership.held.get(self._move.now.slot)
        if held is not None and held.state is not SlotState.MOVED:
            # What is here would be dropped to make room.
            raise PullFailed(
                f"node {self._target.name} holds slot {self._move.now.slot} itself, at epoch {held.epoch}"
            )
        description = await self._ask_source()
        if description is None:
            return None
        if description.obstacles:
            await self._move.wait_for(f"node {self._move.now.source}: {'; '.join(description.obstacles)}")
            return None
        if description.schema_version != self._target.schema_version:
            await self._move.wait_for(
                f"node {self._move.now.source} has schema version {description.schema_version},"
                f" {self._target.name} has {self._target.schema_version}: bring both to the same version"
            )
            return None
        return description

    async def _ask_source(self) -> pb.DescribeSourceResponse | None:
        """None when it does not answer, which is a reason to wait."""
        try:
            return await self._target.peers.describe_source(self._move.now.source)
        except LikeringError as error:
            await self._move.wait_for(wait_reasons.silent(self._move.now.source), last_error=error.message)
            return None

    async def _begin(self) -> bool:
        """PLANNED → COPYING. False when the limits do not allow it now."""
        reason = await self._target.moves.begin(self._move.now, self._target.name)
        if reason:
            await self._move.wait_for(reason)
            return False
        attempt = self._move.attempt
        self._move = TargetMove(self._target, await self._target.moves.move(attempt.move))
        if (self._move.now.state, self._move.attempt) != (MoveState.COPYING, attempt):
            raise self._move.elsewhere()
        steps.reached("copying", self._move.now)
        return True

    async def _copy(self, source: Connection, own: Connection, source_dsn: str, rests: Rests) -> Origin:
        """Returns what the copy was made of."""
        async with self._target.clearing:
            await clear_slot(own, self._move.attempt, self._target.generation())
        await replication.publish(source, self._move.attempt)
        await rests.after_step()
        steps.reached("published", self._move.now)
        async with self._target.links.replicating(source_dsn) as replicating:
            origin = await replication.identify(replicating)
            snapshot = await self._export_snapshot(source, replicating)
            steps.reached("snapshot", self._move.now)
            total = await estimate_rows(source, self._move.now.slot)
            copied = 0

            def progress(rows: int) -> None:
                nonlocal copied
                copied = rows

            reporting = asyncio.create_task(self._report_rows(total, lambda: copied))
            try:
                rows = await copy_tables(
                    source, snapshot, own, self._move.attempt, self._target.budget, progress
                )
            finally:
                await end(reporting)
        steps.reached("copied", self._move.now)
        await rests.after_step()
        await replication.attach(own, self._move.attempt, self._target.generation())
        await rests.after_step()
        await replication.subscribe(own, source_dsn, self._move.attempt)
        await rests.after_step()
        await self._move.advance(
            MoveState.CATCHING_UP, {"rows": rows}, rows_total=rows, rows_copied=rows, last_error=""
        )
        return origin

    async def _export_snapshot(self, source: Connection, replicating: Connection) -> str:
        """Makes the replication slot, and says meanwhile whom that waits for."""
        telling = asyncio.create_task(self._tell_what_is_in_the_way(source, replicating.info.backend_pid))
        try:
            snapshot = await export_snapshot(replicating, self._move.attempt.replication)
        finally:
            await end(telling)
        await self._move.go_on()
        return snapshot

    async def _tell_what_is_in_the_way(self, source: Connection, backend: int) -> None:
        while True:
            # Not at once: see _report_rows.
            await asyncio.sleep(REPORT_INTERVAL)
            processes = await in_the_way(source, backend)
            reason = wait_reasons.transactions(self._move.now.source, processes)
            try:
                await self._move.wait_for(reason if processes else "")
            except TopologyUnavailable as error:
                log.info("cannot tell what is in the way", reason=error.message)

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
            await end(slowing)

    async def _may_freeze(self, source: Connection, own: Connection, forecast: Forecast) -> bool:
        """Sends one more probe; says whether what the probes tell is good enough, or why not."""
        self._probes += 1
        seconds = PROBE_TIMEOUT
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                seconds = await replication.probe(source, own, self._move.attempt, SEAL + self._probes)
        except TimeoutError:
            await self._check_replication(source, own)
        limits = self._target.limits()
        lag_us = round(seconds * 1e6)
        if limits.paused:
            forecast.forget()
            await self._move.wait_for(wait_reasons.PAUSED, lag_us=lag_us)
            await asyncio.sleep(RETRY)
            return False
        match forecast.advice(seconds, limits.pause_budget_ms / 1000):
            case Advice.FREEZE:
                began = time.monotonic()
                await self._move.report(lag_us=lag_us, waits_for="")
                return forecast.still(time.monotonic() - began)
            case Advice.WAIT:
                reason = (
                    wait_reasons.behind(PROBE_TIMEOUT)
                    if seconds >= PROBE_TIMEOUT
                    else wait_reasons.over_budget(forecast.pause * 1000, limits.pause_budget_ms)
                )
                await self._move.wait_for(reason, lag_us=lag_us)
        return False

    async def _slow_source(self, forecast: Forecast) -> None:
        """Has the source write less for as long as it cannot be followed, a long probe's time included."""
        while True:
            await asyncio.sleep(SLOW_FOR / 2)
            if rest := forecast.rest:
                try:
                    await self._target.peers.slow_writes(self._move.now.source, rest, SLOW_FOR)
                except LikeringError as error:
                    log.info("the source does not write less", reason=error.message)

    async def _verify(self) -> bool:
        move = self._move.now
        description = await self._ask_source()
        if description is None:
            return False
        async with self._both(description.replication_dsn) as (source, own):
            verdict = await verify(source, own, move.slot, move.move, move.last_rev or 0)
        if verdict.problem:
            log.error(
                "a moved slot differs from what its source keeps", slot=move.slot, problem=verdict.problem
            )
            await self._move.wait_for(
                f"verification found a difference: {verdict.problem}", last_error=verdict.problem
            )
            return False
        await self._move.advance(
            MoveState.VERIFIED,
            {"rows": verdict.rows, "changed_since": verdict.changed_since},
            waits_for="",
            last_error="",
        )
        return True

    async def _report_rows(self, total: int, copied: Callable[[], int]) -> None:
        while True:
            # Not at once: a report that is cut off by the end of a short copy costs the store its connection.
            await asyncio.sleep(REPORT_INTERVAL)
            try:
                await self._move.report(rows_total=max(total, copied()), rows_copied=copied())
            except TopologyUnavailable as error:
                log.info("cannot report progress", reason=error.message)

    async def _check_replication(self, source: Connection, own: Connection) -> None:
        problem = await replication.subscription_error(
            own, self._move.attempt
        ) or await replication.replication_slot_problem(source, self._move.attempt)
        if problem:
            raise PullFailed(problem)

    @asynccontextmanager
    async def _both(self, source_dsn: str) -> AsyncIterator[tuple[Connection, Connection]]:
        """A connection to the source's Postgres and one to this node's."""
        async with (
            self._target.links.to(source_dsn) as source,
            self._target.links.to(self._target.dsn) as own,
        ):
            yield source, own
