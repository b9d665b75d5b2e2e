"""The posts that this router worker watches at one node: kept watched there, whatever breaks.

One stream tells of changes; one call at a time adds posts to it and takes posts away. What the stream may have missed
while it was not there, the answers to those calls tell: a post that is added is watched before it is read.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol
from uuid import uuid4

import structlog

from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import BatchLost
from router.lane import BatchNotSent, BatchRefused
from router.node_client import NodeClient
from router.patience import FIRST_MOVING_BACKOFF, RECHECK, TOPOLOGY_PATIENCE, Patience, Surroundings

_log = structlog.get_logger(__name__)

SILENCE: Final = 3.0
"""Seconds after which a stream that says nothing is given up; the node says each second that it stands."""
MOST_OF_CALL: Final = 500
"""Posts of one UpdateWatch at most."""

_CALL_SECONDS: Final = 5.0
_REFUSED_SECONDS: Final = 1.0
_LONGEST_BACKOFF: Final = 0.5


class Count(NamedTuple):
    """The count of a post at one of its versions. ``source`` is a CountSource, ``as_of`` µs since 1970."""

    version: int
    likes: int
    source: int
    as_of: int


class Told(Protocol):
    """Whoever is told of counts."""

    def next_ask(self) -> int:
        """A number above all before: of a call that reads posts, given when it is sent."""
        ...

    def changed(self, post_id: str, count: Count) -> None:
        """The node told of a change. May be older than what is known."""
        ...

    def answered(self, post_id: str, count: Count, ask: int) -> None:
        """The post was read by the call of that number."""
        ...


class Topologies(Surroundings, Protocol):
    """What is needed of the dispatch."""

    @property
    def cluster_id(self) -> str: ...
    @property
    def topology_version(self) -> int: ...
    def refresh_soon(self) -> None: ...


class NodeWatch:
    """Keeps posts watched at a node, from the first ``want`` until ``stop``."""

    def __init__(self, node: NodeClient, topologies: Topologies, told: Told) -> None:
        self.client = node
        self._topologies = topologies
        self._told = told
        self._wanted: dict[str, int] = {}
        """Post → epoch of its slot."""
        self._held: dict[str, int] = {}
        """What the node watches for the present stream, or is just being asked to."""
        self._due: dict[str, None] = {}
        """Posts that the next calls are about."""
        self._woken = asyncio.Event()
        self._refusals = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<NodeWatch {self.client.name}: {len(self._held)} of {len(self._wanted)} posts>"

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, post_id: str, epoch: int) -> None:
        """Watches the post, and reads it: also when it is watched already."""
        self._wanted[post_id] = epoch
        self._mark((post_id,))
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"watch of {self.client.name}")

    def unwant(self, post_id: str) -> None:
        """Watches the post no longer."""
        del self._wanted[post_id]
        self._mark((post_id,))

    def stop(self) -> asyncio.Task[None] | None:
        """Ends the stream; gives the task that does."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _mark(self, post_ids: Sequence[str]) -> None:
        self._due.update(dict.fromkeys(post_ids))
        self._woken.set()

    async def _keep(self) -> None:
        patience = Patience(self._topologies, math.inf)
        while True:
            pulse = self._topologies.pulse
            delay = RECHECK
            try:
                await self._follow()
                patience.attempt = 0  # it stood, and the node has ended it
                delay = patience.backoff()
            except BatchNotSent:
                pass
            except (BatchLost, TimeoutError):
                delay = patience.backoff()
            except BatchRefused as refusal:
                _log.warning("cannot watch", node=self.client.name, reason=refusal.error.reason)
                delay = _REFUSED_SECONDS
            except Exception:
                # A subscription that died would leave its watchers without news for ever, and nobody would know.
                _log.exception("watching failed", node=self.client.name)
                delay = _REFUSED_SECONDS
            await patience.wait(pulse, delay, operations=0)

    async def _follow(self) -> None:
        """One stream, until it ends."""
        watch_id = uuid4().hex
        request = shard.WatchCountsRequest(cluster_id=self._topologies.cluster_id, watch_id=watch_id)
        async with aclosing(self.client.watch_counts(request)) as responses:
            async with asyncio.timeout(SILENCE):
                if await anext(responses, None) is None:
                    return
            self._held.clear()
            self._due = dict.fromkeys(self._wanted)
            works = {
                asyncio.ensure_future(self._receive(responses)),
                asyncio.ensure_future(self._update(watch_id)),
            }
            try:
                await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for work in works:
                    work.cancel()
                ended = await asyncio.gather(*works, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _receive(self, responses: AsyncGenerator[shard.WatchCountsResponse, None]) -> None:
        while True:
            async with asyncio.timeout(SILENCE):
                response = await anext(responses, None)
            if response is None:
                return
            as_of = response.as_of_time
            for post_id, count, version in zip(
                response.post_ids, response.counts, response.versions, strict=True
            ):
                self._told.changed(post_id, Count(version, count, shard.COUNT_SOURCE_DATABASE, as_of))
            gone = [
                post_id
                for post_id, epoch in zip(response.gone_post_ids, response.gone_epochs, strict=True)
                if self._held.get(post_id) == epoch
            ]
            for post_id in gone:
                del self._held[post_id]
            self._mark(gone)

    async def _update(self, watch_id: str) -> None:
        while True:
            if not self._due:
                self._woken.clear()
                await self._woken.wait()
                continue
            posts = list(self._due)[:MOST_OF_CALL]
            for post_id in posts:
                del self._due[post_id]
            added = {post_id: self._wanted[post_id] for post_id in posts if post_id in self._wanted}
            removed = [post_id for post_id in posts if post_id not in added and post_id in self._held]
            if not added and not removed:
                continue
            for post_id in removed:
                del self._held[post_id]
            self._held.update(added)
            request = shard.UpdateWatchRequest(
                cluster_id=self._topologies.cluster_id,
                watch_id=watch_id,
                post_ids=added.keys(),
                epochs=added.values(),
                removed_post_ids=removed,
            )
            ask = self._told.next_ask()
            response = await self.client.update_watch(request, _CALL_SECONDS)
            if not response.open:
                raise BatchLost
            self._take(added, response, ask)

    def _take(self, added: dict[str, int], response: shard.UpdateWatchResponse, ask: int) -> None:
        codes = response.codes or [shard.OP_CODE_UNSPECIFIED] * len(added)
        refused: list[str] = []
        behind = False
        for (post_id, epoch), code, count, version, source in zip(
            added.items(), codes, response.counts, response.versions, response.sources, strict=True
        ):
            if not code:
                # Told even if it is gone meanwhile: what was read was the owner's.
                self._told.answered(post_id, Count(version, count, source, response.as_of_time), ask)
                continue
            if self._held.get(post_id) == epoch:
                del self._held[post_id]
            refused.append(post_id)
            behind = behind or code == shard.OP_CODE_NOT_OWNER
        if not refused:
            self._refusals = 0
            return
        delay = min(FIRST_MOVING_BACKOFF * 2.0 ** min(self._refusals, 10), _LONGEST_BACKOFF)
        if behind and response.topology_version > self._topologies.topology_version:
            self._topologies.refresh_soon()
            delay = TOPOLOGY_PATIENCE
        self._refusals += 1
        asyncio.get_running_loop().call_later(delay * random.uniform(0.5, 1.0), self._mark, refused)
