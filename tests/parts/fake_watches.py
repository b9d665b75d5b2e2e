"""The watches of a shard node without databases: who watches what, told of whatever a test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from likering.shard.v1 import shard_service_pb2 as shard


class FakeWatches:
    """Remembers streams and calls. ``owns(post, epoch)``: posts of others are refused."""

    def __init__(self, owns: Callable[[str, int], bool]) -> None:
        self._owns = owns
        self.counts: dict[str, tuple[int, int]] = {}
        """Post → version and count."""
        self.streams: dict[str, dict[str, int]] = {}
        """Stream → post → epoch, of those that stand."""
        self.opened = 0
        self.updates: list[shard.UpdateWatchRequest] = []
        self.codes: list[shard.OpCode.ValueType] = []
        """Each is what all posts of one call are answered with."""
        self.beating = True
        """Cleared: streams say nothing by themselves."""
        self.answering = asyncio.Event()
        """Cleared: calls wait after they have watched and read."""
        self.answering.set()
        self._queues: dict[str, asyncio.Queue[shard.WatchCountsResponse | None]] = {}

    @property
    def watched(self) -> list[str]:
        """The posts of all streams that stand."""
        return sorted(post_id for posts in self.streams.values() for post_id in posts)

    def change(self, post_id: str, version: int, *, tell: bool = True) -> None:
        """The post has that version, and as many likes."""
        self.counts[post_id] = version, version
        if tell:
            self.tell(post_id, version)

    def change_all(self, post_ids: Sequence[str], version: int) -> None:
        """All these posts have that version, as one message tells."""
        for post_id in post_ids:
            self.counts[post_id] = version, version
        for queue in self._queues.values():
            versions = [version] * len(post_ids)
            queue.put_nowait(
                shard.WatchCountsResponse(
                    as_of_time=_now(), post_ids=post_ids, counts=versions, versions=versions
                )
            )

    def tell(self, post_id: str, version: int) -> None:
        """A change that may be older than what is stored."""
        for watch_id, posts in self.streams.items():
            if post_id in posts:
                self._queues[watch_id].put_nowait(
                    shard.WatchCountsResponse(
                        as_of_time=_now(), post_ids=[post_id], counts=[version], versions=[version]
                    )
                )

    def leave(self, post_id: str, epoch: int) -> None:
        """The post is not watched any more."""
        for watch_id, posts in self.streams.items():
            if posts.pop(post_id, None) is not None:
                self._queues[watch_id].put_nowait(
                    shard.WatchCountsResponse(gone_post_ids=[post_id], gone_epochs=[epoch])
                )

    def end(self) -> None:
        """All streams end, as when another writer begins."""
        for queue in self._queues.values():
            queue.put_nowait(None)

    async def stream(
        self, request: shard.WatchCountsRequest
    ) -> AsyncGenerator[shard.WatchCountsResponse, None]:
        self.opened += 1
        self.streams[request.watch_id] = {}
        queue = self._queues[request.watch_id] = asyncio.Queue()
        try:
            yield shard.WatchCountsResponse()
            while True:
                try:
                    async with asyncio.timeout(0.2 if self.beating else None):
                        response = await queue.get()
                except TimeoutError:
                    response = shard.WatchCountsResponse()
                if response is None:
                    return
                yield response
        finally:
            del self.streams[request.watch_id], self._queues[request.watch_id]

    async def update(
        self, request: shard.UpdateWatchRequest, topology_version: int
    ) -> shard.UpdateWatchResponse:
        self.updates.append(request)
        posts = self.streams.get(request.watch_id)
        if posts is None:
            return shard.UpdateWatchResponse()
        for post_id in request.removed_post_ids:
            del posts[post_id]
        refusal = self.codes.pop(0) if self.codes else shard.OP_CODE_UNSPECIFIED
        response = shard.UpdateWatchResponse(open=True, topology_version=topology_version, as_of_time=_now())
        for post_id, epoch in zip(request.post_ids, request.epochs, strict=True):
            code = refusal
            if not code and not self._owns(post_id, epoch):
                code = shard.OP_CODE_NOT_OWNER
            if not code:
                posts[post_id] = epoch
            version, count = (0, 0) if code else self.counts.get(post_id, (0, 0))
            response.codes.append(code)
            response.counts.append(count)
            response.versions.append(version)
            response.sources.append(shard.COUNT_SOURCE_CACHE)
        await self.answering.wait()
        return response


def _now() -> int:
    return time.time_ns() // 1000
