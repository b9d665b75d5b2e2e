"""The change feed of many slots as one stream: merges what their nodes stream, and follows slots that move.

A node streams the slots that it owns, all in one stream. When it says that a slot is not its own any more, it has told
all that was committed there, and the slot's new owner is asked to go on from the same position. A stream that breaks
is begun again. What counts is where the consumer stands: a page that was read but not handed on is read again, and a
page of a stream that has been given up is thrown away, for its changes would come twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from time import monotonic
from typing import Final, Protocol

import grpc

from likering.cursors import FROM_NOW, Cursors, Standing
from likering.errors import LikeringError, WrongCluster
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from router.fragments import BatchLost
from router.lane import BatchNotSent, BatchRefused
from router.node_client import NodeClient
from router.patience import RECHECK, TOPOLOGY_PATIENCE, backoff

PROGRESS_INTERVAL: Final = 5.0
"""Seconds after which a consumer is told where it stands, even if nothing has changed."""


class Owners(Protocol):
    """What is needed of the dispatch."""

    @property
    def pulse(self) -> asyncio.Event: ...
    @property
    def topology_version(self) -> int: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def slot_count(self) -> int: ...

    def owner_of_slot(self, slot: int) -> tuple[NodeClient | None, int]:
        """The node that owns the slot, None when nobody does, and the slot's epoch."""
        ...

    def refresh_soon(self) -> None:
        """Asks for a newer topology."""
        ...


class MergedFeed:
    """One consumer. Holds a page, and one more per node that waits to be taken."""

    def __init__(self, owners: Owners, standing: Standing, max_batch: int, request_id: str) -> None:
        """``standing``: after what to begin."""
        self._owners = owners
        self._max_batch = max_batch
        self._request_id = request_id
        self._positions = dict(standing.positions)
        self._began = standing.began
        self._streams: dict[NodeClient, _NodeStream] = {}
        self._waiting = dict.fromkeys(standing.positions, 0.0)
        """Slots that no stream has, and when to ask for them at the earliest, on the monotonic clock."""
        self._attempts: dict[int, int] = defaultdict(int)
        self._rerouted = asyncio.Event()
        self._pages: asyncio.Queue[_Page] = asyncio.Queue(maxsize=1)

    def __repr__(self) -> str:
        return f"<MergedFeed of {len(self._positions)} slots, {len(self._waiting)} wait, {len(self._streams)} streams>"

    async def responses(self, cursors: Cursors) -> AsyncGenerator[api.StreamLikeEventsResponse, None]:
        """The consumer's stream. Raises LikeringError for what will not pass by itself."""
        routing = asyncio.create_task(self._route(), name="events: routing")
        try:
            await self._resolve(routing)
            slot_count = self._owners.slot_count
            response = api.StreamLikeEventsResponse()
            while True:
                response.cursor = cursors.make(self._positions, self._began)
                response.slot_count = slot_count
                yield response
                response = await self._next(monotonic() + PROGRESS_INTERVAL)
                self._raise_bugs(routing)
        finally:
            tasks = self._tasks(routing)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _tasks(self, routing: asyncio.Task[None]) -> list[asyncio.Task[None]]:
        return [routing, *(stream.task for stream in self._streams.values())]

    def _raise_bugs(self, routing: asyncio.Task[None]) -> None:
        """A bug ends the consumer's stream instead of holding it up."""
        for task in self._tasks(routing):
            if task.done():
                task.result()

    async def _resolve(self, routing: asyncio.Task[None]) -> None:
        """Has the nodes say where "now" is. A cursor before that would be one of other changes each time it is used."""
        unresolved = {slot for slot, position in self._positions.items() if position == FROM_NOW}
        if not unresolved:
            return
        while unresolved:
            try:
                async with asyncio.timeout(PROGRESS_INTERVAL):
                    stream, page = await self._pages.get()
            except TimeoutError:
                self._raise_bugs(routing)
                continue
            if not stream.live:
                continue
            if isinstance(page, LikeringError):
                raise page
            if page is not None:
                for slot, position in zip(page.slots, page.positions, strict=True):
                    if position != FROM_NOW and slot in unresolved:
                        self._positions[slot] = position
                        unresolved.discard(slot)
            # Whatever else it has streamed is read again, when there is a cursor to go with it.
            self._end(stream)
            self._ask_again(stream.slots & unresolved)
        self._waiting = dict.fromkeys(self._positions, 0.0)
        self._rerouted.set()

    async def _next(self, until: float) -> api.StreamLikeEventsResponse:
        """The next events; none when the time is up."""
        response = api.StreamLikeEventsResponse()
        with suppress(TimeoutError):
            async with asyncio.timeout(until - monotonic()):
                while not response.events:
                    stream, page = await self._pages.get()
                    if not stream.live:
                        continue
                    if isinstance(page, LikeringError):
                        raise page
                    if page is None:
                        self._end(stream)
                        self._ask_again(stream.slots)
                    else:
                        self._move_on(stream, page)
                        response.events.MergeFrom(page.events)
        return response

    def _move_on(self, stream: _NodeStream, page: shard.StreamChangesResponse) -> None:
        """To where the page ends."""
        for slot, position in zip(page.slots, page.positions, strict=True):
            self._positions[slot] = position
            self._attempts.pop(slot, None)
        gone = [slot for slot, code in zip(page.slots, page.codes, strict=False) if code]
        if gone:
            stream.slots.difference_update(gone)
            newer = page.topology_version > self._owners.topology_version
            if newer:
                self._owners.refresh_soon()
            self._ask_again(gone, TOPOLOGY_PATIENCE if newer else None)

    async def _route(self) -> None:
        """Has each slot that waits streamed by its owner, for as long as the consumer stays."""
        while True:
            pulse = self._owners.pulse
            self._rerouted.clear()
            now = monotonic()
            due: dict[NodeClient, dict[int, int]] = defaultdict(dict)
            for slot, at in list(self._waiting.items()):
                node, epoch = self._owners.owner_of_slot(slot)
                if at <= now and node is not None and node.connected:
                    due[node][slot] = epoch
                    del self._waiting[slot]
            for node, epochs in due.items():
                self._stream(node, epochs)
            await self._change(pulse, now)

    async def _change(self, pulse: asyncio.Event, now: float) -> None:
        """Waits until something may be different: a connection, the topology, a slot more that waits, the time."""
        later = [at for at in self._waiting.values() if at > now]
        delay = min([*(at - now for at in later), *([RECHECK] if self._waiting else [])], default=None)
        waits = [asyncio.ensure_future(pulse.wait()), asyncio.ensure_future(self._rerouted.wait())]
        try:
            await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _stream(self, node: NodeClient, epochs: Mapping[int, int]) -> None:
        """Begins a stream of these slots, and of those that the node streams already: one stream a node."""
        before = self._streams.get(node)
        wanted = dict(epochs)
        if before is not None:
            self._end(before)
            wanted |= {slot: before.epochs[slot] for slot in before.slots}
        request = shard.StreamChangesRequest(
            cluster_id=self._owners.cluster_id,
            request_id=self._request_id,
            slots=wanted,
            epochs=wanted.values(),
            positions=[self._positions[slot] for slot in wanted],
            max_batch=self._max_batch,
            began=self._began,
        )
        stream = self._streams[node] = _NodeStream(node, wanted)
        stream.task = asyncio.create_task(self._read(stream, request), name=f"events: {node.name}")

    async def _read(self, stream: _NodeStream, request: shard.StreamChangesRequest) -> None:
        """Hands on what a node streams, as fast as it is taken; after that, that it has ended."""
        end: LikeringError | None = None
        try:
            async with aclosing(stream.node.stream_changes(request)) as pages:
                async for page in pages:
                    await self._pages.put((stream, page))
        except (BatchNotSent, BatchLost):
            pass
        except BatchRefused as refusal:
            # Another cluster's node has this address: not for callers to know.
            if refusal.error.code is not grpc.StatusCode.UNAVAILABLE and not isinstance(
                refusal.error, WrongCluster
            ):
                end = refusal.error
        if stream.live:
            await self._pages.put((stream, end))

    def _end(self, stream: _NodeStream) -> None:
        """Nothing more of it counts."""
        stream.live = False
        stream.task.cancel()
        del self._streams[stream.node]

    def _ask_again(self, slots: Iterable[int], delay: float | None = None) -> None:
        now = monotonic()
        for slot in slots:
            self._waiting[slot] = now + (backoff(self._attempts[slot]) if delay is None else delay)
            self._attempts[slot] += 1
        self._rerouted.set()


class _NodeStream:
    """The stream of one node. ``slots``: those of ``epochs`` that it still streams."""

    def __init__(self, node: NodeClient, epochs: Mapping[int, int]) -> None:
        self.node = node
        self.epochs = epochs
        self.slots = set(epochs)
        self.live = True
        self.task: asyncio.Task[None]

    def __repr__(self) -> str:
        return f"<_NodeStream of {len(self.slots)} slots of {self.node.name}{'' if self.live else ', ended'}>"


_Page = tuple[_NodeStream, shard.StreamChangesResponse | LikeringError | None]
"""What a node streams; None, or why, after the last one."""
