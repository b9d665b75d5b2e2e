"""Sends blocks of likes to a cluster, several calls in flight, and says in the blocks' order what has become of them.

Likes of one post go one way, one call after the other: so they arrive in the file's order, which is the order of a list
where times are the same. A block is done when all its calls are; two or three are in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Final, NamedTuple

import grpc

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import AdminError
from likering.cli.transfer.blocks import Block, Reject
from likering.cli.transfer.times import text_of
from likering.importing import MAX_LIKES

LANES: Final = 4
"""Ways, and so calls in flight."""
BLOCKS: Final = 2
"""Blocks under way before another one is read."""
PATIENCE: Final = 120.0
"""Seconds for which a call is repeated that the cluster cannot answer now."""
_PAUSE: Final = 0.5
_LATER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_OVERLOADED: Final = ("ROUTER_OVERLOADED", "SHARD_OVERLOADED")

Send = Callable[[api.ImportLikesRequest], api.ImportLikesResponse]


class Loaded(NamedTuple):
    """A block that is done: where it ended, and what became of its lines."""

    block: Block
    inserted: int
    existing: int
    rejects: Sequence[Reject]


class Stopped(Exception):
    """The import ends early."""


class Loader:
    """One import; a context manager, whose end waits for the calls in flight and sends no others."""

    def __init__(
        self, send: Send, *, patience: float = PATIENCE, told: Callable[[str], None] = lambda _: None
    ) -> None:
        """``send`` raises AdminError. ``told`` hears why the cluster is waited for, on any thread."""
        self._send = send
        self._patience = patience
        self._told = told
        self._stop = threading.Event()
        self._failed: AdminError | None = None
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="import") for _ in range(LANES)]

    def __repr__(self) -> str:
        return f"<Loader of {len(self._lanes)} lanes>"

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for lane in self._lanes:
            lane.shutdown(cancel_futures=True)

    def load(self, blocks: Iterable[Block]) -> Iterator[Loaded]:
        """Each block when it and all before it are done. Raises what calls raise in the end, and ``blocks``."""
        under_way: deque[tuple[Block, Sequence[Future[_Answer]]]] = deque()
        for block in blocks:
            under_way.append((block, [*self._begin(block)]))
            if len(under_way) > BLOCKS:
                yield _loaded(*under_way.popleft())
        while under_way:
            yield _loaded(*under_way.popleft())

    def _begin(self, block: Block) -> Iterator[Future[_Answer]]:
        lanes: list[list[int]] = [[] for _ in self._lanes]
        for position, post_id in enumerate(block.post_ids):
            lanes[hash(post_id) % LANES].append(position)
        for lane, positions in zip(self._lanes, lanes, strict=True):
            for start in range(0, len(positions), MAX_LIKES):
                yield lane.submit(self._import, block, positions[start : start + MAX_LIKES])

    def _import(self, block: Block, positions: Sequence[int]) -> _Answer:
        request = api.ImportLikesRequest(
            user_ids=[block.user_ids[p] for p in positions],
            post_ids=[block.post_ids[p] for p in positions],
            like_times=[block.like_times[p] for p in positions],
        )
        until = monotonic() + self._patience
        told = False
        while not self._stop.is_set():
            if self._failed is not None:
                raise self._failed  # nothing is sent that comes behind what was not taken
            try:
                return _Answer(positions, self._send(request))
            except AdminError as error:
                later = error.code in _LATER or error.reason in _OVERLOADED
                if not later or monotonic() > until:
                    self._failed = error
                    raise
                if not told:
                    self._told(error.message)
                    told = True
                self._stop.wait(_PAUSE)
        raise Stopped


class _Answer(NamedTuple):
    positions: Sequence[int]
    response: api.ImportLikesResponse


def _loaded(block: Block, calls: Sequence[Future[_Answer]]) -> Loaded:
    inserted = existing = 0
    rejects = list(block.rejects)
    for call in calls:
        positions, response = call.result()
        outcomes = list(response.outcomes)
        inserted += outcomes.count(api.IMPORT_OUTCOME_INSERTED)
        existing += outcomes.count(api.IMPORT_OUTCOME_EXISTING)
        for refusal in response.refusals:
            position = positions[refusal.position]
            time = block.like_times[position]
            record = f"{block.user_ids[position]},{block.post_ids[position]},{text_of(time) if time else ''}"
            rejects.append(Reject(block.lines[position], refusal.message, record))
    return Loaded(block, inserted, existing, sorted(rejects))
