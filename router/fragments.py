"""The operations of one call for one node on their way through a lane, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum, auto
from itertools import repeat
from typing import TypeAlias

from likering.errors import LikeringError
from likering.serving.trail import trail_of_call
from likering.shard.v1 import shard_service_pb2 as shard

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


class BatchLost(Exception):
    """The batch was on its way when its connection broke or its time was up."""


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
        "queued",
        "request_id",
        "trail",
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
        self.queued = 0.0
        self.trail = trail_of_call.get()
        self.answer: Answer
        self.error: LikeringError

    def __repr__(self) -> str:
        return f"<Fragment of {self.request_id}: {len(self.kinds)} operations>"
