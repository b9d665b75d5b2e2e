"""Gathers operations for one node and sends them in batches: at once when idle, more at a time while busy.

A lane is one kind of traffic (writes, or reads of one ReadMode) to one node. While as many batches as may be are in
flight, the next one gathers; ``Pace`` says when it is sent otherwise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import repeat
from time import monotonic
from typing import Final, Protocol, TypeAlias

import structlog

from likering.errors import InternalError, LikeringError, RouterOverloaded
from likering.shard.v1 import shard_service_pb2 as shard
from router.pace import Pace
from router.patience import OVERLOAD_RETRY_SECONDS

_log = structlog.get_logger(__name__)

_DATABASE = int(shard.COUNT_SOURCE_DATABASE)


class Fate(Enum):
    """What became of a fragment."""

    ANSWERED = auto()
    """Each operation has its result."""
    NOT_SENT = auto()
    """It never left this process: the node is not connected, or the topology has changed."""
    LOST = auto()
    """It was on its way when the connection broke or the time was up: executed or not, nobody knows."""
    REFUSED = auto()
    """The node answered the batch as a whole with an error, which is in ``error``."""


Row: TypeAlias = tuple[int, int, int, int, int, int]
"""What was found or done: outcome (OpOutcome), count, version, like time in µs, source (CountSource), as of µs."""


class Answer:
    """The results of one batch: ``codes`` (OpCode), None when all succeeded, and a row for each operation.

    Raises BatchLost when the columns do not fit together, for then nobody knows what was done.
    """

    __slots__ = ("codes", "rows", "topology_version")

    def __init__(self, response: shard.ExecuteResponse, operations: int) -> None:
        self.topology_version = response.topology_version
        codes = response.codes[:]
        self.codes: Sequence[int] | None = codes if any(codes) else None
        try:
            self.rows: Sequence[Row] = list(
                zip(
                    response.outcomes,
                    response.counts,
                    response.versions,
                    response.like_times or repeat(0, operations),
                    response.sources or repeat(_DATABASE, operations),
                    repeat(response.as_of_time, operations),
                    strict=True,
                )
            )
        except ValueError as error:
            raise BatchLost from error
        if len(self.rows) != operations or (self.codes is not None and len(self.codes) != operations):
            raise BatchLost

    @classmethod
    def of(cls, rows: Sequence[Row], codes: Sequence[int], topology_version: int) -> Answer:
        """One put together from parts of others."""
        answer = cls.__new__(cls)
        answer.rows, answer.topology_version = rows, topology_version
        answer.codes = codes if any(codes) else None
        return answer


class Fragment:
    """The operations of one call for one node, column by column, and what became of them.

    ``future`` gets a Fate. With ANSWERED, operation i of the fragment is row ``offset + i`` of ``answer``; with REFUSED
    there is an ``error``.
    """

    __slots__ = (
        "answer",
        "deadline",
        "epochs",
        "error",
        "future",
        "intent_times",
        "kinds",
        "min_versions",
        "offset",
        "post_ids",
        "request_id",
        "user_ids",
    )

    def __init__(
        self,
        kinds: Sequence[int],
        post_ids: Sequence[str],
        user_ids: Sequence[str],
        intent_times: Sequence[int],
        epochs: Sequence[int],
        min_versions: Sequence[int],
        deadline: float,
        request_id: str,
        future: asyncio.Future[Fate],
    ) -> None:
        self.kinds = kinds
        self.post_ids = post_ids
        self.user_ids = user_ids
        self.intent_times = intent_times
        self.epochs = epochs
        self.min_versions = min_versions
        self.deadline = deadline
        self.request_id = request_id
        self.future = future
        self.offset = 0
        self.answer: Answer
        self.error: LikeringError

    def __repr__(self) -> str:
        return f"<Fragment of {self.request_id}: {len(self.kinds)} operations>"


class BatchLost(Exception):
    """The batch was on its way when its connection broke or its time was up."""


class BatchNotSent(Exception):
    """The batch never left: there was no connection."""


class BatchRefused(Exception):
    """The node answered with an error for the batch as a whole."""

    def __init__(self, error: LikeringError) -> None:
        super().__init__(error)
        self.error = error


class NodePort(Protocol):
    """The way to one node, as a lane sees it."""

    @property
    def connected(self) -> bool: ...

    async def execute(self, request: shard.ExecuteRequest, timeout: float) -> shard.ExecuteResponse:
        """Numbers the batch and sends it. Raises BatchNotSent, BatchLost or BatchRefused."""
        ...


class Way(Protocol):
    """Where fragments go: a lane, or what stands before one."""

    def has_room(self, operations: int) -> bool:
        """Whether so many operations may still be queued."""
        ...

    def submit(self, fragment: Fragment) -> None:
        """Takes a fragment, whose ``future`` says what becomes of it. Raises RouterOverloaded."""
        ...


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much a lane gathers."""

    batch_operations: int = 1500
    """Most operations of one batch; a fragment is never split, so a batch may hold one larger fragment."""
    gathered_calls: int = 64
    """Sent without waiting for more when it has the operations of so many calls."""
    batches_in_flight: int = 2
    company: int = 16
    """While a batch is in flight, the next one waits for it unless it has the operations of so many calls."""
    queued_operations: int = 150_000
    """Most operations that wait."""


GOOD_BATCH: Final = 300
"""So many operations are worth a batch of their own, however few calls they are of: they wait for nothing."""
_MIN_TIMEOUT: Final = 1.0
_MAX_TIMEOUT: Final = 10.0


class Lane:
    """One kind of traffic to one node. Everything runs on one event loop."""

    def __init__(
        self, node: NodePort, read_mode: int, cluster_id: str, limits: LaneLimits, pace: Pace
    ) -> None:
        self._node = node
        self._read_mode = read_mode
        self._cluster_id = cluster_id
        self._limits = limits
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Fragment] = deque()
        self._queued = 0
        self._in_flight: set[asyncio.Task[None]] = set()
        self._send_is_due = False
        self._purged_at = 0.0

    def __repr__(self) -> str:
        return f"<Lane to {self._node!r}: {self._queued} operations wait, {len(self._in_flight)} batches in flight>"

    @property
    def node(self) -> NodePort:
        """The way that this lane takes."""
        return self._node

    def has_room(self, operations: int) -> bool:
        """Whether so many operations may still be queued."""
        if self._queued + operations > self._limits.queued_operations:
            self._forget_the_dead()
        return self._queued + operations <= self._limits.queued_operations

    def submit(self, fragment: Fragment) -> None:
        """Queues a fragment, whose ``future`` says what becomes of it. Raises RouterOverloaded."""
        if not self._node.connected:
            fragment.future.set_result(Fate.NOT_SENT)
            return
        operations = len(fragment.kinds)
        if self._queued + operations > self._limits.queued_operations and not self.has_room(operations):
            raise RouterOverloaded(retry_after=OVERLOAD_RETRY_SECONDS)
        self._queue.append(fragment)
        self._queued += operations
        self._pace.arrived()
        self._send_or_gather()

    def flush(self) -> None:
        """Gives back all fragments that wait: the topology has changed, or the connection is gone."""
        queue, self._queue, self._queued = self._queue, deque(), 0
        for fragment in queue:
            if not fragment.future.done():
                fragment.future.set_result(Fate.NOT_SENT)

    async def close(self) -> None:
        """Waits for what is in flight."""
        self.flush()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    def _may_send(self) -> bool:
        in_flight = len(self._in_flight)
        return not in_flight or (
            in_flight < self._limits.batches_in_flight
            and (len(self._queue) >= self._limits.company or self._queued >= GOOD_BATCH)
        )

    def _send(self) -> int:
        """Sends what may be sent; returns how many calls' operations that are."""
        self._send_is_due = False
        calls = 0
        while self._queue and self._may_send():
            calls += self._send_one()
        return calls

    def _send_one(self) -> int:
        batch = self._take()
        if batch:
            task = self._loop.create_task(self._execute(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)
        return len(batch)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.remove(task)
        if not task.cancelled():
            task.result()
        self._send_or_gather()

    def _send_or_gather(self) -> None:
        """Sends what is a good batch already; lets the pace say when for anything less."""
        while self._queue and self._may_send():
            if len(self._queue) >= self._limits.gathered_calls or self._queued >= GOOD_BATCH:
                self._send_one()
            else:
                if not self._send_is_due:
                    self._send_is_due = True
                    self._pace.due(self._send)
                return

    def _take(self) -> list[Fragment]:
        """The next batch, without fragments that nobody waits for any more."""
        batch: list[Fragment] = []
        room = self._limits.batch_operations
        now = monotonic()
        queue = self._queue
        while queue:
            fragment = queue[0]
            operations = len(fragment.kinds)
            if operations > room and batch:
                break
            queue.popleft()
            self._queued -= operations
            if fragment.future.done():
                continue
            if fragment.deadline <= now:
                fragment.future.set_result(Fate.NOT_SENT)
                continue
            batch.append(fragment)
            room -= operations
        return batch

    async def _execute(self, batch: Sequence[Fragment]) -> None:
        began = monotonic()
        try:
            request = self._request(batch)
            answer = Answer(await self._node.execute(request, _timeout(batch)), len(request.kinds))
        except BatchNotSent:
            fate = Fate.NOT_SENT
        except BatchLost:
            fate = Fate.LOST
        except BatchRefused as refusal:
            fate = _refuse(batch, refusal.error)
        except Exception:
            # The boundary of a task that nobody awaits: callers must not wait for an answer that never comes.
            _log.exception("batch failed by a bug", node=repr(self._node))
            fate = _refuse(batch, InternalError())
        else:
            fate = Fate.ANSWERED
            self._pace.took(monotonic() - began)
            for fragment in batch:
                fragment.answer = answer
        for fragment in batch:
            if not fragment.future.done():
                fragment.future.set_result(fate)

    def _request(self, batch: Sequence[Fragment]) -> shard.ExecuteRequest:
        kinds: list[int] = []
        post_ids: list[str] = []
        user_ids: list[str] = []
        intent_times: list[int] = []
        epochs: list[int] = []
        min_versions: list[int] = []
        offset = 0
        for fragment in batch:
            fragment.offset = offset
            offset += len(fragment.kinds)
            kinds += fragment.kinds
            post_ids += fragment.post_ids
            user_ids += fragment.user_ids
            intent_times += fragment.intent_times
            epochs += fragment.epochs
            min_versions += fragment.min_versions
        request = shard.ExecuteRequest(
            cluster_id=self._cluster_id,
            request_id=batch[0].request_id,
            read_mode=self._read_mode,  # type: ignore[arg-type]  # the number of a ReadMode
            kinds=kinds,  # type: ignore[arg-type]  # the numbers of OpKind
            post_ids=post_ids,
            user_ids=user_ids,
            epochs=epochs,
        )
        if any(intent_times):
            request.intent_times.extend(intent_times)
        if any(min_versions):
            request.min_versions.extend(min_versions)
        return request

    def _forget_the_dead(self) -> None:
        now = monotonic()
        if now - self._purged_at < 0.05:
            return  # Looking through a full queue for each call that is refused would be the overload.
        self._purged_at = now
        self._queue = deque(fragment for fragment in self._queue if not fragment.future.done())
        self._queued = sum(len(fragment.kinds) for fragment in self._queue)


def _refuse(batch: Sequence[Fragment], error: LikeringError) -> Fate:
    for fragment in batch:
        fragment.error = error
    return Fate.REFUSED


def _timeout(batch: Sequence[Fragment]) -> float:
    """The latest deadline of the batch.

    Not below a second, or callers with short deadlines would pile batches up on a slow node that nobody waits for.
    Not above ten, or one caller with a long deadline would block the lane.
    """
    latest = max(fragment.deadline for fragment in batch)
    return min(max(latest - monotonic(), _MIN_TIMEOUT), _MAX_TIMEOUT)
