"""The one writer of a node: gathers what is queued and commits it as a group, behind the fence.

One transaction at a time, so revisions are ordered and a change of the owned slots is one more entry of the same
queue. While a transaction runs the next batch gathers; there is no timer. ``commit`` does one batch; this file says
which batch, when, and what happens to it when the database fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
import structlog

from likering.errors import LikeringError, NotPossible
from likering.serving import tracing
from likering.serving.tracing import Span
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_NO_STANDBY,
    OP_CODE_STORAGE_FULL,
    OP_CODE_UNAVAILABLE,
    OP_CODE_UNKNOWN_OUTCOME,
    OpCode,
)
from shard_node import store
from shard_node.commit import Batch, commit
from shard_node.database import within
from shard_node.leadership import Leadership
from shard_node.load import Load
from shard_node.maintenance import SlotRefused, Transaction, transact
from shard_node.ownership import HeldSlot, Ownership, SlotState
from shard_node.post_numbers import PostNumbers
from shard_node.purge_marks import PurgeMarks, Purges, load_marks
from shard_node.refusals import refused_writes
from shard_node.slot_change import RefusedJob, SlotsJob, change_slots
from shard_node.standby import Lack, StandbyWatch
from shard_node.swept import SweptIntents
from shard_node.user_purge_marks import UserPurgeMarks
from shard_node.writer_queue import QueuedJob, SlotsChange, WriterQueue, resolve

log = structlog.get_logger(__name__)

MAX_BATCH = 2000
"""Operations of one transaction, unless a single unit has more."""
BEAT_INTERVAL = 0.5
"""Seconds without a commit after which the writer proves that it is still the writer."""
INTENT_TOLERANCE_US = 60_000_000
"""How far ahead of this clock an intent may be."""
MOST_REST = 0.1
"""Seconds that the writer rests at most after a commit when it is to write less."""
JOBS_REST = 2.0
"""While likes wait, the next job does so for as many times as long as the last one took."""
TRANSACTION_TIMEOUT = 5.0
"""Seconds after which a transaction that does not answer is given up, with an unknown outcome."""

T = TypeVar("T")
Publish = Callable[[Batch], Awaitable[None]]


class Writer(WriterQueue):
    """The queue and the loop. ``run`` it as a task; it ends only by LeadershipLost or cancellation."""

    def __init__(
        self,
        leadership: Leadership,
        ownership: Ownership,
        publish: Publish,
        *,
        max_queued: int = 50_000,
        transaction_timeout: float = TRANSACTION_TIMEOUT,
        standby: StandbyWatch | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``publish`` is awaited after each commit and before its operations are answered.

        ``standby``: writes are refused while it tells of a lack. None: they never are for that.
        """
        super().__init__(max_queued)
        self._leadership = leadership
        self._ownership = ownership
        self._publish = publish
        self._transaction_timeout = transaction_timeout
        self._standby = standby
        self._clock_us = clock_us
        self._next_job = 0.0
        self.led = asyncio.Event()
        """Set once this process has led: from then on ``ownership`` is what its database says."""
        self._publishing: set[asyncio.Task[None]] = set()
        self._last_rev = 0
        self._reached = 0
        """A revision of which ``reach`` knows; unlike ``_last_rev``, no commit of unknown outcome raises it."""
        self._rest = 0.0
        self._rest_until = 0.0
        self._tracing = tracing.active()
        self.load = Load()
        """What was committed lately."""
        self.purge_marks = PurgeMarks()
        """Posts that take no likes now."""
        self.user_purge_marks = UserPurgeMarks()
        """Users whose likes are not taken now."""
        self.post_numbers = PostNumbers()
        """The posts that it has written to."""
        self.swept_intents = SweptIntents()
        """Intents of likes that are too old."""

    def __repr__(self) -> str:
        return f"<Writer {self._queued} queued, last_rev {self._last_rev}, {self._leadership!r}>"

    async def reach(self, rev: int) -> None:
        """Returns when all revisions up to this one that were ever issued here are committed, and none is to come.

        Also after a restart, and of a slot wherever it goes: the database knows it. Raises NotPossible for one that
        is far ahead of the clock, which nobody can have been given; and ConnectionError or TimeoutError when the
        database is away.
        """
        if rev <= self._reached:
            return
        if rev > self._clock_us() + INTENT_TOLERANCE_US:
            raise NotPossible("A clock of the service is more than a minute ahead of another one.")
        await self.write(partial(self._reach, rev))

    async def _reach(self, rev: int, connection: store.Connection, fence: store.Fence) -> None:
        await store.check_fence(await store.raise_fence(connection, fence, rev))
        self._reached = max(self._reached, rev)
        self._last_rev = max(self._last_rev, rev)

    def slow_down(self, rest: float, seconds: float) -> None:
        """For the next ``seconds``, rests after each commit for ``rest`` times as long as that took, or longer.

        Longer when another target has asked for that and its time is not over.
        """
        now = time.monotonic()
        self._rest = max(rest, self._rest) if now < self._rest_until else rest
        self._rest_until = now + seconds

    async def run(self) -> None:
        """Takes the lead, then commits until the lead is lost (LeadershipLost) or the task is cancelled."""
        try:
            while True:
                try:
                    await self._lead()
                    await self._commit_until_broken()
                except (psycopg.Error, TimeoutError) as error:
                    log.warning("writer lost its database", error=type(error).__name__)
                    self._leadership.disconnect()
                    self._refuse_all(OP_CODE_UNAVAILABLE)
        finally:
            self._leadership.disconnect()
            self._refuse_all(OP_CODE_UNAVAILABLE)
            if self._publishing:
                await asyncio.wait(self._publishing)

    async def drained(self) -> None:
        """Returns when nothing is queued and all that was committed has been answered."""
        while self._queue or self._publishing:
            futures = [unit.done for unit in self._queue] + list(self._publishing)
            await asyncio.wait(futures)

    async def _lead(self) -> None:
        leading = asyncio.ensure_future(self._leadership.take())
        # Until the database is back, what callers queue is refused at once: the router holds it back and asks again.
        while not leading.done():
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((leading, waking), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                leading.cancel()
                raise
            finally:
                waking.cancel()
            if self._wake.is_set() and not leading.done():
                self._wake.clear()
                self._refuse_all(OP_CODE_NO_STANDBY if self._lack else OP_CODE_UNAVAILABLE)
        taken = leading.result()
        self._last_rev = max(self._last_rev, taken.last_rev)
        self._reached = taken.last_rev
        await self._reload_slots()
        self.led.set()

    async def _commit_until_broken(self) -> None:
        while True:
            if await self._commits_would_wait():
                # Nothing can be committed, beats neither: reads end with the lease, as in a primary that was cut off.
                self._refuse_all(OP_CODE_NO_STANDBY)
                await self._woken()
                continue
            if not self._anything_waits():
                if not await self._woken() and not await self._commits_would_wait():
                    await self._beat([])
                continue
            if self._slots_changes:
                await self._change_slots(self._slots_changes.popleft())
                continue
            if self._leadership.proof_age > BEAT_INTERVAL:
                await self._beat([])  # commits that the server refuses prove nothing
            if self._lack:
                self._refuse_writes()
            began = time.monotonic()
            # At most one of each between two batches.
            job = bool(self._jobs) and (not self._queue or began >= self._next_job)
            worked = bool(self._maintenance) or job
            if self._maintenance:
                await self._maintain(self._maintenance.popleft())
            if job:
                await self._write(self._jobs.popleft())
            barriers = self._take_barriers()
            batch = self._next_batch()
            if batch is not None:
                await self._commit(batch, barriers)
            elif barriers:
                await self._beat(barriers)
            if began < self._rest_until and (worked or batch is not None):
                await self._rest_after(time.monotonic() - began)

    async def _commits_would_wait(self) -> bool:
        """For a standby that is away."""
        if self._standby is not None and self._standby.due:
            await self._within(self._standby.look(self._leadership.connection))
        return self._lack is Lack.AWAY

    async def _woken(self) -> bool:
        """Waits until something is queued, for BEAT_INTERVAL at most; whether something was."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_INTERVAL):
                return await self._wake.wait()
        return False

    async def _rest_after(self, seconds: float) -> None:
        # What changes the slots ends what the rest is for, so it does not wait for that.
        if not self._slots_changes:
            self._slots_change.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._rest * seconds, MOST_REST)):
                    await self._slots_change.wait()

    def _next_batch(self) -> Batch | None:
        now = self._clock_us()
        latest_intent = now + INTENT_TOLERANCE_US
        batch = Batch(base_rev=max(self._last_rev, now))
        for unit in self._take_units(MAX_BATCH):
            refused = refused_writes(
                unit,
                self._ownership,
                self.purge_marks,
                self.user_purge_marks,
                self.swept_intents,
                latest_intent,
            )
            batch.add(unit, refused)
        self.tally.refused.update(map(OpCode.Name, batch.refused.values()))
        if not batch.uncommitted:
            # Nothing to execute, so nothing that would prove that this node still leads.
            batch.answer(OP_CODE_UNAVAILABLE)
            return None
        return batch

    async def _commit(self, batch: Batch, barriers: list[asyncio.Future[bool]]) -> None:
        connection = self._leadership.connection
        began = time.monotonic()
        failure: OpCode.ValueType = OP_CODE_UNKNOWN_OUTCOME
        proved = False
        span = self._span(batch) if self._tracing is not None else None
        batch.began = began
        try:
            await self._within(commit(connection, self._leadership.fence, batch, self.post_numbers))
            proved = True
        except store.FenceLost:
            failure = OP_CODE_UNAVAILABLE
            self.tally.failed["FenceLost"] += 1
            await self._reload_fence()
        except (psycopg.Error, TimeoutError) as error:
            self.tally.failed[type(error).__name__] += 1
            log.warning(
                "commit failed", error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None)
            )
            if self._is_lost(error):
                # Nobody knows whether the commit took place. The next generation begins with a new cache.
                raise
            full = isinstance(error, psycopg.errors.DiskFull)
            failure = OP_CODE_STORAGE_FULL if full else OP_CODE_UNAVAILABLE
            await self._within(connection.rollback())
        finally:
            self._last_rev = max(self._last_rev, batch.last_rev)
            batch.ended = time.monotonic()
            if span is not None:
                span.end("OK" if proved else OpCode.Name(failure))
            if proved:
                self.tally.committed(batch)
                self._leadership.proved(began)
                self.load.committed((len(unit), unit.arrived) for unit in batch.units)
                self.load.hot_writes.add(batch.post_ids)
            resolve(barriers, value=proved)
            self._answer_when_published(batch, partial(batch.answer, failure))

    def _span(self, batch: Batch) -> Span:
        assert self._tracing is not None
        return self._tracing.work(
            "commit",
            [unit.span for unit in batch.units],
            {"db.system.name": "postgresql", "likering.operations": len(batch)},
        )

    def _answer_when_published(self, batch: Batch, answer: Callable[[], None]) -> None:
        publishing = asyncio.create_task(self._publish_and_answer(batch, answer))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)

    async def _publish_and_answer(self, batch: Batch, answer: Callable[[], None]) -> None:
        try:
            await self._publish(batch)
        finally:
            answer()

    async def _maintain(self, work: Transaction) -> None:
        if work.done.done():
            return  # given up by its caller before it began
        try:
            work.admit(self._ownership)
        except SlotRefused as refusal:
            work.fail(refusal)
            return
        base_rev = max(self._last_rev, self._clock_us())
        began = time.monotonic()
        try:
            await self._within(transact(work, self._leadership.connection, self._leadership.fence, base_rev))
        except store.FenceLost:
            self._maintenance.appendleft(work)
            await self._reload_fence()
        except (psycopg.Error, TimeoutError) as error:
            log.warning("maintenance failed", work=repr(work), error=type(error).__name__)
            work.fail(error)
            if self._is_lost(error):
                raise
        except asyncio.CancelledError:
            work.fail(ConnectionError("the node is stopping"))
            raise
        else:
            self._last_rev = max(self._last_rev, base_rev + work.revisions)
            self._leadership.proved(began)
            work.committed()
            self._answer_when_published(work.batch(base_rev), work.succeed)

    async def _write(self, queued: QueuedJob) -> None:
        if queued.done.done():
            return  # given up by its caller before it began
        began = time.monotonic()
        work = queued.job(self._leadership.connection, self._leadership.fence)
        if await self._try(work, queued.done, lambda: self._jobs.appendleft(queued)):
            self._leadership.proved(began)
        self._next_job = time.monotonic() + JOBS_REST * (time.monotonic() - began)

    async def _beat(self, barriers: list[asyncio.Future[bool]]) -> None:
        began = time.monotonic()
        try:
            await self._within(self._prove())
        except store.FenceLost:
            resolve(barriers, value=False)
            await self._reload_fence()
        except (psycopg.Error, TimeoutError) as error:
            resolve(barriers, value=False)
            if self._is_lost(error):
                raise
            log.warning("beat failed", error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None))
        else:
            self._leadership.proved(began)
            resolve(barriers, value=True)

    async def _prove(self) -> None:
        await store.check_fence(await store.beat(self._leadership.connection, self._leadership.fence))

    async def _change_slots(self, change: SlotsChange) -> None:
        await self._try(
            self._slots_transaction(change.job, change.last_rev, change.purges),
            change.done,
            lambda: self._slots_changes.appendleft(change),
        )

    async def _try(
        self, work: Coroutine[Any, Any, None], future: asyncio.Future[None], again: Callable[[], None]
    ) -> bool:
        """Whether a job was done; tells its future, or calls ``again`` when it is to be done under another fence."""
        try:
            await self._within(work)
        except store.FenceLost:
            again()
            await self._reload_fence()
            return False
        except asyncio.CancelledError:
            if not future.done():
                future.set_exception(ConnectionError("the writer has ended"))
            raise
        except (psycopg.Error, TimeoutError, RefusedJob, LikeringError) as error:
            if not future.done():
                future.set_exception(error)
            if not isinstance(error, (RefusedJob, LikeringError)) and self._is_lost(error):
                raise
            return False
        if not future.done():
            future.set_result(None)
        return True

    async def _slots_transaction(self, job: SlotsJob, last_rev: int, purges: Purges | None) -> None:
        connection, fence = self._leadership.connection, self._leadership.fence
        changed = await change_slots(connection, fence, job, max(self._last_rev, last_rev))
        self._leadership.slots_seq_is(changed.slots_seq)
        self._last_rev = max(self._last_rev, changed.last_rev)  # a slot that came has revisions of its own
        await self._hold(changed.held, known=self._ownership.epochs.keys(), purges=purges)

    async def _reload_fence(self) -> None:
        """Finds out why the fence was lost: another generation raises LeadershipLost, other slots are reloaded."""
        await self._within(self._leadership.reload())
        await self._reload_slots()

    async def _reload_slots(self) -> None:
        await self._within(self._read_slots())

    async def _read_slots(self) -> None:
        held = await store.slots_held(await store.held_slots(self._leadership.connection))
        await self._hold(held, known=())

    async def _hold(
        self, held: Mapping[int, HeldSlot], known: Collection[int], purges: Purges | None = None
    ) -> None:
        """Takes over what the database says; marks of ``purges`` are ``known`` of some slots already."""
        served = {slot for slot, one in held.items() if one.state is not SlotState.MOVED}
        if purges is None:
            purges = await load_marks(self._leadership.connection, sorted(served.difference(known)))
        self.purge_marks.replace(served.intersection(known), purges.posts)
        self.user_purge_marks.replace(served.intersection(known), purges.users)
        self.post_numbers.keep(served.intersection(known))
        self.swept_intents.replace({slot: held[slot].swept_intent for slot in served})
        self._ownership.replace(held)

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        return await within(self._transaction_timeout, work, self._leadership.connection)

    def _is_lost(self, error: Exception) -> bool:
        """Whether the connection is of no use any more. A server that became read-only is not the primary any more."""
        return (
            isinstance(error, TimeoutError | psycopg.errors.ReadOnlySqlTransaction)
            or self._leadership.connection.broken
        )

    @property
    def _lack(self) -> Lack | None:
        return self._standby.lack if self._standby is not None else None
