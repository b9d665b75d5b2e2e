"""Who watches which posts of this node: one stream per router worker, and what each has still to be told.

A commit looks its posts up in a dict, and not even that while nobody watches. A stream keeps the newest count of each
of its posts, so a router that reads slowly costs memory for its posts, not for their changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from likering.conflation import Conflation
from likering.errors import ShardOverloaded
from shard_node.ownership import Ownership
from shard_node.store import PostCount

HEARTBEAT: Final = 1.0
"""Seconds after which a stream says that it stands when there is nothing else to say."""
MOST_STREAMS: Final = 1024
MOST_POSTS: Final = 100_000
"""Posts that one stream watches at most."""
MOST_UPDATES: Final = 2000
"""Posts of one message at most: with the longest ids 0.3 MiB."""
SPACING: Final = 0.01
"""Seconds between two messages of one stream."""

_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Updates:
    """One message of a stream. Empty: a sign of life."""

    counts: Mapping[str, PostCount] = field(default_factory=dict)
    gone: Sequence[tuple[str, int]] = ()
    """Posts that are not watched here any more, with the epochs at which they were."""


class WatchStream:
    """The posts that one router worker watches here. ``Watches`` makes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.places: dict[str, tuple[int, int]] = {}
        """Post → slot and epoch at which it is watched."""
        self.posts_at: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        """The other way round."""
        self._versions: dict[str, int] = {}
        self._changed: Conflation[str, PostCount] = Conflation()
        self._gone: list[tuple[str, int]] = []
        self._ended = False
        self._woken = asyncio.Event()
        self._sent_at = 0.0

    def __repr__(self) -> str:
        return f"<WatchStream of {len(self.places)} posts, {self._changed!r}>"

    def __len__(self) -> int:
        return len(self.places)

    def watches(self, post_id: str, epoch: int) -> bool:
        """Whether the post is watched at that epoch of its slot."""
        return post_id in self.places and self.places[post_id][1] == epoch

    async def next(self) -> Updates | None:
        """What there is to tell, as soon as there is something; None once the stream has ended."""
        heartbeat_at = self._clock() + HEARTBEAT
        while not self._ended:
            self._woken.clear()
            now = self._clock()
            due_in = 0.0 if self._gone else self._changed.due_in(now)
            if due_in is not None:
                due_in = max(due_in, self._sent_at + SPACING - now)
                if due_in <= 0:
                    self._sent_at = now
                    gone, self._gone = self._gone[:MOST_UPDATES], self._gone[MOST_UPDATES:]
                    return Updates(self._changed.take(now, MOST_UPDATES), gone)
            patience = heartbeat_at - now
            if patience <= 0:
                return Updates()
            try:
                async with asyncio.timeout(patience if due_in is None else min(due_in, patience)):
                    await self._woken.wait()
            except TimeoutError:
                pass
        return None

    def place(self, post_id: str, slot: int, epoch: int) -> None:
        """The post is watched, at that epoch of its slot."""
        self._displace(post_id)
        self.places[post_id] = slot, epoch
        self.posts_at[slot, epoch].add(post_id)

    def _displace(self, post_id: str) -> None:
        place = self.places.pop(post_id, None)
        if place is not None:
            posts = self.posts_at[place]
            posts.discard(post_id)
            if not posts:
                del self.posts_at[place]

    def offer(self, post_id: str, count: PostCount) -> None:
        """The post, which is watched, has changed."""
        # Commits are published side by side, so an older one may come later.
        if count.version > self._versions.get(post_id, -1):
            self._versions[post_id] = count.version
            self._changed.offer(post_id, count)
            self._woken.set()

    def forget(self, post_id: str) -> None:
        """The post is not watched any more."""
        self._displace(post_id)
        self._versions.pop(post_id, None)
        self._changed.forget(post_id)

    def leave(self, place: tuple[int, int]) -> list[str]:
        """The posts of a slot at an epoch are not watched any more, and the router is told. Returns them."""
        posts = list(self.posts_at[place])
        for post_id in posts:
            self.forget(post_id)
            self._gone.append((post_id, place[1]))
        self._woken.set()
        return posts

    def end(self) -> None:
        """``next`` gives no more."""
        self._ended = True
        self._woken.set()


class Watches:
    """All streams of one node. Lives on one event loop."""

    def __init__(self, ownership: Ownership, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ownership = ownership
        self._clock = clock
        self._streams: dict[str, WatchStream] = {}
        self._watching: dict[str, set[WatchStream]] = {}

    def __repr__(self) -> str:
        return f"<Watches {len(self._watching)} posts by {len(self._streams)} streams>"

    @property
    def watched_posts(self) -> int:
        """Posts of all streams together: one that two routers watch counts twice."""
        return sum(map(len, self._streams.values()))

    @contextmanager
    def stream(self, watch_id: str) -> Iterator[WatchStream]:
        """A stream for as long as it is served. Raises ShardOverloaded when there are too many."""
        if len(self._streams) >= MOST_STREAMS:
            raise ShardOverloaded(retry_after=_RETRY_SECONDS)
        stream = self._streams[watch_id] = WatchStream(self._clock)
        try:
            yield stream
        finally:
            self._end(watch_id, stream)

    def find(self, watch_id: str) -> WatchStream | None:
        """The stream, None when it has ended."""
        return self._streams.get(watch_id)

    def add(
        self, stream: WatchStream, post_ids: Sequence[str], slots: Sequence[int], epochs: Sequence[int]
    ) -> None:
        """Watches these posts, those that are watched already too. Raises ShardOverloaded, and then adds none."""
        new = sum(post_id not in stream.places for post_id in post_ids)
        if new and len(stream) + new > MOST_POSTS:
            raise ShardOverloaded(retry_after=_RETRY_SECONDS)
        for post_id, slot, epoch in zip(post_ids, slots, epochs, strict=True):
            stream.place(post_id, slot, epoch)
            self._watching.setdefault(post_id, set()).add(stream)

    def remove(self, stream: WatchStream, post_ids: Sequence[str]) -> None:
        """Watches these posts no longer."""
        for post_id in post_ids:
            stream.forget(post_id)
            self._unwatch(post_id, stream)

    def publish(self, posts: Mapping[str, PostCount]) -> None:
        """Tells of posts as a commit left them. To be called once no older count can be read any more."""
        if not self._watching:
            return
        for post_id in self._watching.keys() & posts.keys():
            for stream in self._watching[post_id]:
                stream.offer(post_id, posts[post_id])

    def slots_changed(self) -> None:
        """The node's slots have changed: what it is no longer the owner of is not watched here any more."""
        epochs = self._ownership.epochs
        for stream in self._streams.values():
            for slot, epoch in list(stream.posts_at):
                if epochs.get(slot) != epoch:
                    for post_id in stream.leave((slot, epoch)):
                        self._unwatch(post_id, stream)

    def end_all(self) -> None:
        """Ends the streams: there may be commits that nobody has told them of."""
        for watch_id, stream in list(self._streams.items()):
            self._end(watch_id, stream)

    def _end(self, watch_id: str, stream: WatchStream) -> None:
        if self._streams.get(watch_id) is stream:
            del self._streams[watch_id]
            self.remove(stream, list(stream.places))
        stream.end()

    def _unwatch(self, post_id: str, stream: WatchStream) -> None:
        streams = self._watching.get(post_id)
        if streams is not None:
            streams.discard(stream)
            if not streams:
                del self._watching[post_id]
