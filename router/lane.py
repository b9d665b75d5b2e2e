"""Gathers operations for one node and sends them in batches: at once when idle, more at a time while busy.

A lane is one kind of traffic (writes, or reads of one ReadMode) to one node. While as many batches as may be are in
flight, the next one gathers; ``Pace`` says when it is sent otherwise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

import structlog

from likering.errors import InternalError, LikeringError, RouterOverloaded
from likering.serving import tracing
from likering.serving.tracing import Metadata, Span
from likering.serving.trail import Visit
from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import Answer, BatchLost, Fate, Fragment
from router.operations import WRITES
from router.pace import Pace
from router.patience import OVERLOAD_RETRY_SECONDS
from router.tallies import TrafficTally

_log = structlog.get_logger(__name__)


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
    def name(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    async def execute(
        self, request: shard.ExecuteRequest, timeout: float, metadata: Metadata = ()
    ) -> shard.ExecuteResponse:
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
        self,
        node: NodePort,
        read_mode: int,
        cluster_id: str,
        limits: LaneLimits,
        pace: Pace,
        tally: TrafficTally | None = None,
    ) -> None:
        """``tally``: of its kind of traffic, shared by all lanes of that kind."""
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
        self._tracing = tracing.active()
        self._tally = tally or TrafficTally()

    def __repr__(self) -> str:
        return f"<Lane to {self._node!r}: {self._queued} operations wait, {len(self._in_flight)} batches in flight>"

    @property
    def queued(self) -> int:
        """Operations that wait."""
        return self._queued

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
        fragment.queued = monotonic()
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
        spent: Mapping[str, float] | None = None
        span = self._span(batch) if self._tracing is not None else None
        try:
            request = self._request(batch)
            metadata = self._tracing.metadata(span) if self._tracing is not None and span is not None else ()
            response = await self._node.execute(request, _timeout(batch), metadata)
            answer = Answer(response, len(request.kinds))
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
            spent = self._spent(response)
            self._pace.took(monotonic() - began)
            for fragment in batch:
                fragment.answer = answer
        answered = monotonic()
        operations = sum(len(fragment.kinds) for fragment in batch)
        self._tally.sent(
            self._node.name, fate.name.lower(), operations, began - batch[0].queued, answered - began
        )
        if span is not None:
            span.end("OK" if fate is Fate.ANSWERED else fate.name)
        visit = Visit(self._node.name, began, answered, spent)
        for fragment in batch:
            if fragment.trail is not None:
                fragment.trail.visits.append((fragment.queued, visit))
            if not fragment.future.done():
                fragment.future.set_result(fate)

    def _span(self, batch: Sequence[Fragment]) -> Span:
        assert self._tracing is not None
        return self._tracing.work(
            "likering.shard.v1.ShardService/Execute",
            [fragment.trail.span for fragment in batch if fragment.trail is not None],
            {
                "likering.node": self._node.name,
                "likering.operations": sum(len(fragment.kinds) for fragment in batch),
            },
            remote=True,
        )

    def _spent(self, response: shard.ExecuteResponse) -> Mapping[str, float]:
        """Where the node says that it spent the time, in seconds."""
        queue, execute, cache = response.queue_us, response.execute_us, response.cache_us
        return {
            "node_queue": queue / 1e6,
            "commit" if self._read_mode == WRITES else "reads": execute / 1e6,
            "cache": cache / 1e6,
            "node": (response.node_us - queue - execute - cache) / 1e6,
        }

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
