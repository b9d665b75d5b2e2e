"""One call's operations: split by owner, sent, collected, and sent again until each has a result or an error.

Sent again is what was certainly not executed, and what may be executed twice: reads, and writes with an intent time.
Such a write may answer UNCHANGED where its first try, of which nobody heard, had CHANGED.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol

import grpc

from likering.errors import (
    FieldViolation,
    IntentInFuture,
    IntentTooOld,
    InternalError,
    LikeringError,
    NoSynchronousStandby,
    PostBeingPurged,
    RouterOverloaded,
    ShardUnavailable,
    SlotMoving,
    StorageFull,
    UserBeingPurged,
    VersionAhead,
    WrongCluster,
)
from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import Fate, Fragment, Row
from router.lane import Way
from router.operations import WRITES, Operations
from router.patience import (
    FIRST_MOVING_BACKOFF,
    OVERLOAD_RETRY_SECONDS,
    RECHECK,
    TOPOLOGY_PATIENCE,
    Patience,
    Surroundings,
)

_STORAGE_RETRY_SECONDS: Final = 5.0


class Router(Surroundings, Protocol):
    """What an undertaking needs of the dispatch."""

    @property
    def topology_version(self) -> int: ...

    def unrouted(self) -> LikeringError:
        """Why a slot may have no lane."""
        ...

    def split(
        self, operations: Operations, positions: Sequence[int]
    ) -> list[tuple[Way | None, Sequence[int], Sequence[int]]]:
        """Lane, positions and their epochs, for each node that owns some of the operations."""
        ...

    def refresh_soon(self) -> None:
        """Asks for a newer topology."""
        ...


class Undertaking:
    """The operations of one call. ``until``: when to give up, on the clock of ``time.monotonic``.

    After ``run``, each position has a row, or None there and an error in ``errors``.
    """

    def __init__(self, router: Router, operations: Operations, until: float, pulse: asyncio.Event) -> None:
        self._router = router
        self._operations = operations
        self._until = until
        self._pulse = pulse
        self._pending: Sequence[int] = range(len(operations.kinds))
        self._reasons: dict[int, LikeringError] = {}
        self._uncertain: set[int] = set()
        self._delay = math.inf
        self._patience = Patience(router, until)
        self.rows: Sequence[Row | None] = [None] * len(operations.kinds)
        self.errors: dict[int, LikeringError] = {}

    def __repr__(self) -> str:
        return (
            f"<Undertaking {len(self._pending)} of {len(self.rows)} operations pending, {self._patience!r}>"
        )

    async def run(self, *, all_or_overloaded: bool = False, timer: bool = False) -> None:
        """Sends and waits until nothing is pending.

        ``all_or_overloaded``: raises RouterOverloaded when there is no room for all of it, before anything is sent.
        Without ``timer`` a batch in flight is waited for until its own time is up; the caller's gRPC deadline cancels
        this coroutine earlier.
        """
        while self._pending:
            self._pulse = self._router.pulse
            sent = self._send(check_room=all_or_overloaded and not self._patience.attempt)
            try:
                if timer:
                    left = max(0.0, self._until - monotonic())
                    await asyncio.wait(
                        [fragment.future for fragment, _ in sent], timeout=left
                    ) if sent else None
                else:
                    for fragment, _ in sent:
                        await fragment.future
            finally:
                # Only does something when this call was cancelled or its time is up: nobody waits for these.
                unfinished = [fragment.future.cancel() for fragment, _ in sent]
            for (fragment, positions), cut_off in zip(sent, unfinished, strict=True):
                if cut_off:
                    self._fail(positions, ShardUnavailable)
                else:
                    self.collect(fragment, positions)
            await self.pause()

    def collect(self, fragment: Fragment, positions: Sequence[int]) -> None:
        """Takes over what became of a fragment; what is to be sent again stays pending."""
        match fragment.future.result():
            case Fate.ANSWERED:
                self._take(fragment, positions)
            case Fate.NOT_SENT:
                self._again(positions, ShardUnavailable(), RECHECK)
            case Fate.LOST:
                for position in positions:
                    self._unknown(position)
            case Fate.REFUSED:
                error = fragment.error
                if isinstance(error, WrongCluster):
                    # Another cluster's node has this address: not for callers to know.
                    error = ShardUnavailable()
                if error.code is grpc.StatusCode.UNAVAILABLE:
                    self._again(positions, error, self._patience.backoff())
                else:
                    self.errors.update(dict.fromkeys(positions, error))

    async def pause(self) -> None:
        """Waits until it makes sense to send again, or makes errors of what is pending."""
        pending, self._pending = sorted(self._reasons), ()
        if not pending:
            return
        try:
            in_time = await self._patience.wait(self._pulse, self._delay, len(pending))
        except RouterOverloaded as overloaded:
            self._reasons.update(dict.fromkeys(pending, overloaded))
            in_time = False
        if not in_time:
            self._give_up(pending)
            return
        self._delay = math.inf
        self._reasons.clear()
        self._pending = pending

    def _send(self, *, check_room: bool) -> list[tuple[Fragment, Sequence[int]]]:
        operations = self._operations
        parts = self._router.split(operations, self._pending)
        if check_room and not all(
            lane.has_room(len(positions)) for lane, positions, _ in parts if lane is not None
        ):
            raise RouterOverloaded(retry_after=OVERLOAD_RETRY_SECONDS)
        everything = len(self._pending) == len(operations.kinds)
        loop = asyncio.get_running_loop()
        sent: list[tuple[Fragment, Sequence[int]]] = []
        for lane, positions, epochs in parts:
            if lane is None:
                self._again(positions, self._router.unrouted(), RECHECK)
                continue
            part = (
                operations
                if everything and len(positions) == len(operations.kinds)
                else operations.pick(positions)
            )
            fragment = Fragment(
                part.kinds,
                part.post_ids,
                part.user_ids,
                part.intent_times,
                epochs,
                part.min_versions,
                self._until,
                operations.request_id,
                loop.create_future(),
            )
            try:
                lane.submit(fragment)
            except RouterOverloaded as error:
                self.errors.update(dict.fromkeys(positions, error))
            else:
                sent.append((fragment, positions))
        return sent

    def _take(self, fragment: Fragment, positions: Sequence[int]) -> None:
        answer = fragment.answer
        start, end = fragment.offset, fragment.offset + len(positions)
        rows = answer.rows[start:end]
        codes = answer.codes[start:end] if answer.codes is not None else None
        if codes is None or not any(codes):
            if len(positions) == len(self.rows):
                self.rows = rows
                return
            codes = None
        assert isinstance(self.rows, list)
        if codes is None:
            for position, row in zip(positions, rows, strict=True):
                self.rows[position] = row
            return
        for position, row, code in zip(positions, rows, codes, strict=True):
            if code:
                self._judge(position, code, answer.topology_version)
            else:
                self.rows[position] = row

    def _judge(self, position: int, code: int, topology_version: int) -> None:
        match code:
            case shard.OP_CODE_NOT_OWNER:
                if topology_version > self._router.topology_version:
                    self._router.refresh_soon()
                    self._again((position,), SlotMoving(), TOPOLOGY_PATIENCE)
                else:
                    # The node has not heard of our topology yet; or we have, since it answered, heard of its.
                    self._again((position,), SlotMoving(), self._patience.backoff())
            case shard.OP_CODE_MOVING:
                # For some ten milliseconds: a change of the topology ends the wait, but it may have come already.
                self._again((position,), SlotMoving(), self._patience.backoff(FIRST_MOVING_BACKOFF))
            case shard.OP_CODE_UNAVAILABLE:
                self._again((position,), ShardUnavailable(), self._patience.backoff())
            case shard.OP_CODE_NO_STANDBY:
                # After a failover the other standby needs a moment to follow the new primary.
                self._again((position,), NoSynchronousStandby(), self._patience.backoff())
            case shard.OP_CODE_UNKNOWN_OUTCOME:
                self._unknown(position)
            case shard.OP_CODE_INTENT_IN_FUTURE:
                error = FieldViolation(
                    "intent_time", IntentInFuture.reason, "more than 60 s ahead of the shard"
                )
                self.errors[position] = IntentInFuture(violations=[error])
            case shard.OP_CODE_INTENT_TOO_OLD:
                error = FieldViolation(
                    "intent_time", IntentTooOld.reason, "older than unlikes that are remembered no longer"
                )
                self.errors[position] = IntentTooOld(violations=[error])
            case shard.OP_CODE_VERSION_AHEAD:
                self.errors[position] = VersionAhead()
            case shard.OP_CODE_STORAGE_FULL:
                self.errors[position] = StorageFull(retry_after=_STORAGE_RETRY_SECONDS)
            case shard.OP_CODE_POST_BEING_PURGED:
                self.errors[position] = PostBeingPurged()
            case shard.OP_CODE_USER_BEING_PURGED:
                self.errors[position] = UserBeingPurged()
            case _:
                self.errors[position] = InternalError()
        if position in self._uncertain and position in self.errors:
            self.errors[position].metadata["outcome"] = "unknown"

    def _unknown(self, position: int) -> None:
        if self._operations.traffic != WRITES:
            self._again((position,), ShardUnavailable(), self._patience.backoff())
            return
        self._uncertain.add(position)
        if self._operations.intent_times[position]:
            self._again((position,), ShardUnavailable(), self._patience.backoff())
        else:
            self._fail((position,), ShardUnavailable)

    def _again(self, positions: Sequence[int], reason: LikeringError, delay: float) -> None:
        self._reasons.update(dict.fromkeys(positions, reason))
        self._delay = min(self._delay, delay)

    def _give_up(self, positions: Sequence[int]) -> None:
        for position in positions:
            reason = self._reasons[position]
            if position in self._uncertain:
                self._fail((position,), type(reason))
            else:
                self.errors[position] = reason

    def _fail(self, positions: Sequence[int], error_class: type[LikeringError]) -> None:
        """Errors for operations that were sent: a write may have been executed."""
        write = self._operations.traffic == WRITES
        error = error_class(metadata={"outcome": "unknown"} if write else None)
        self.errors.update(dict.fromkeys(positions, error))
