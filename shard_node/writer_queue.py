"""What waits for its turn at the one writer of a node, and how whoever waits is told that there will be none.

Five kinds, in the order of their turns: changes of the owned slots, maintenance of what is stored, jobs, units of
likes, and barriers, which any commit passes. ``writer`` takes them from here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from likering.errors import NoSynchronousStandby, ShardOverloaded
from likering.shard.v1.shard_service_pb2 import OP_CODE_NO_STANDBY, OpCode
from shard_node import store
from shard_node.commit import WriteUnit
from shard_node.maintenance import Transaction
from shard_node.purge_marks import Purges
from shard_node.slot_change import SlotsJob
from shard_node.tallies import WriterTally

Job = Callable[[store.Connection, store.Fence], Coroutine[Any, Any, None]]


class SlotsChange(NamedTuple):
    """A transaction that changes the slots, as ``change_slots`` was given it, and the future of who waits for it."""

    job: SlotsJob
    last_rev: int
    purges: Purges | None
    done: asyncio.Future[None]


class QueuedJob(NamedTuple):
    """A transaction that is no group of likes, and the future of who waits for it."""

    job: Job
    done: asyncio.Future[None]


class WriterQueue:
    """The waiting half of a writer. For one event loop."""

    def __init__(self, max_queued: int) -> None:
        """``max_queued``: operations of units that may wait."""
        self._max_queued = max_queued
        self._queue: deque[WriteUnit] = deque()
        self._queued = 0
        self._barriers: list[asyncio.Future[bool]] = []
        self._slots_changes: deque[SlotsChange] = deque()
        self._maintenance: deque[Transaction] = deque()
        self._jobs: deque[QueuedJob] = deque()
        self._wake = asyncio.Event()
        """Set when something has come."""
        self._slots_change = asyncio.Event()
        """Set when a change of the slots has come."""
        self.tally = WriterTally()
        """What was committed and what was refused, for the metrics."""

    @property
    def queued(self) -> int:
        """Operations that wait for their transaction."""
        return self._queued

    def submit(self, unit: WriteUnit) -> asyncio.Future[None]:
        """Queues a unit; its future is done once every operation of it has its answer.

        Raises ShardOverloaded, and then nothing of it was queued.
        """
        if self._queued and self._queued + len(unit) > self._max_queued:
            raise ShardOverloaded(retry_after=0.05)
        self._queue.append(unit)
        self._queued += len(unit)
        self._wake.set()
        return unit.done

    async def barrier(self) -> bool:
        """Returns after a commit that began later than this call. False: this node may not be the owner any more."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._barriers.append(future)
        self._wake.set()
        return await future

    async def change_slots(self, job: SlotsJob, last_rev: int = 0, purges: Purges | None = None) -> None:
        """Runs a transaction that changes the owned slots, in the writer's turn, and reloads them.

        Revisions go on above ``last_rev``. ``purges``: those under way of a slot that comes; None: its rows are asked.

        ``job`` gets the connection in pipeline mode, inside a transaction that the fence ends if it must. Raises what
        it raises: RefusedJob, LikeringError or psycopg.Error; and ConnectionError or TimeoutError when the database is
        away.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots_changes.append(SlotsChange(job, last_rev, purges, future))
        self._slots_change.set()
        self._wake.set()
        await future

    async def maintain(self, work: Transaction) -> None:
        """Executes a transaction in the writer's turn and has the cache know of it, as of any commit.

        Raises SlotRefused when the slot takes no writes here at the work's epoch, psycopg.Error, and ConnectionError
        or TimeoutError when the database is away: then nobody may know whether it was committed.
        """
        self._maintenance.append(work)
        self._wake.set()
        await work.done

    async def write(self, job: Job) -> None:
        """Runs a transaction that is no group of likes in the writer's turn, between two of those.

        While likes wait, jobs get a third of the writer's time at most.

        ``job`` gets the connection, in autocommit, and the fence, which all that it writes must hold; it raises
        FenceLost when that does not, and is then called again with another one. Raises what it
        raises else: psycopg.Error; and ConnectionError or TimeoutError when the database is away. Then nobody knows
        whether it was committed.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.append(QueuedJob(job, future))
        self._wake.set()
        await future

    def _anything_waits(self) -> bool:
        return bool(self._queue or self._barriers or self._slots_changes or self._maintenance or self._jobs)

    def _take_barriers(self) -> list[asyncio.Future[bool]]:
        barriers, self._barriers = self._barriers, []
        return barriers

    def _take_units(self, most: int) -> list[WriteUnit]:
        """The next units, up to so many operations or one that has more; without those that callers gave up."""
        units: list[WriteUnit] = []
        size = 0
        while self._queue and (not units or size + len(self._queue[0]) <= most):
            unit = self._queue.popleft()
            self._queued -= len(unit)
            if not unit.done.done():
                units.append(unit)
                size += len(unit)
        return units

    def _refuse_all(self, code: OpCode.ValueType) -> None:
        """Everything: the database cannot be written to."""
        self._refuse_units(code)
        resolve(self._take_barriers(), value=False)
        away = ConnectionError("the node's database cannot be written to")
        no_standby = code == OP_CODE_NO_STANDBY
        while self._maintenance:
            self._maintenance.popleft().fail(NoSynchronousStandby() if no_standby else away)
        _fail([change.done for change in self._slots_changes], away)
        _fail([job.done for job in self._jobs], away)
        self._slots_changes.clear()
        self._jobs.clear()

    def _refuse_writes(self) -> None:
        """For want of a standby. Reads go on; so do changes of the slots: a node may be drained because of this."""
        self._refuse_units(OP_CODE_NO_STANDBY)
        while self._maintenance:
            self._maintenance.popleft().fail(NoSynchronousStandby())
        _fail([job.done for job in self._jobs], ConnectionError(NoSynchronousStandby().message))
        self._jobs.clear()

    def _refuse_units(self, code: OpCode.ValueType) -> None:
        waiting = [unit for unit in self._queue if not unit.done.done()]
        for unit in waiting:
            unit.refuse(code)
        self.tally.refused[OpCode.Name(code)] += sum(map(len, waiting))
        self._queue.clear()
        self._queued = 0


def resolve(barriers: Iterable[asyncio.Future[bool]], *, value: bool) -> None:
    """Tells those who wait for a barrier, unless they have given up."""
    for barrier in barriers:
        if not barrier.done():
            barrier.set_result(value)


def _fail(futures: Iterable[asyncio.Future[None]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
