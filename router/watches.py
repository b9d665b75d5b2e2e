"""All watchers of one router worker: of each post one subscription at its owner, however many watch it.

A watcher holds which of its posts have changed, not the changes: whoever reads slowly gets the newest count when it
reads again. What may be told how often is decided per post, so that thousands of watchers cost one timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Final, Protocol

from likering.conflation import UPDATE_INTERVAL
from likering.errors import RouterOverloaded
from router.node_client import NodeClient
from router.node_watch import Count, NodeWatch, Topologies

MOST_WATCHERS: Final = 20_000
MOST_POSTS: Final = 100_000
"""Watchers of one router worker at most, and posts of all of them."""
SLICE: Final = 32
"""Watchers that are woken at once."""
PAUSE: Final = 0.005
"""Seconds between two slices: other calls are served in between."""

_RETRY_SECONDS: Final = 1.0


class Placements(Topologies, Protocol):
    """What is needed of the dispatch."""

    @property
    def slot_count(self) -> int: ...
    def slot_of(self, post_id: str) -> int: ...
    def owner_of(self, post_id: str) -> tuple[NodeClient | None, int]: ...


class WatchedPost:
    """A post, who watches it, and the newest that is known of it."""

    __slots__ = ("newest", "post_id", "rests_until", "slot", "timer", "unprimed", "watchers")

    def __init__(self, post_id: str, slot: int) -> None:
        self.post_id = post_id
        self.slot = slot
        self.newest: Count | None = None
        self.watchers: set[Watcher] = set()
        self.unprimed: dict[Watcher, int] = {}
        """Watchers that wait for their first count, and the highest ask that is too early for them."""
        self.rests_until = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Watcher:
    """One caller's watch. ``Watches`` makes them."""

    def __init__(self) -> None:
        self._told: dict[WatchedPost, int] = {}
        """The version that the caller was given, for each post that has been given at all."""
        self._changed: dict[WatchedPost, None] = {}
        self._woken = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watcher told of {len(self._told)} posts, {len(self._changed)} changed>"

    async def counts(self, longest: float) -> list[tuple[str, Count]]:
        """Posts that are new or have changed since the last call, with their newest counts.

        Waits for them; an empty list after ``longest`` seconds.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                while not (counts := self._take()):
                    self._woken.clear()
                    await self._woken.wait()
                return counts
        return []

    def note(self, post: WatchedPost) -> None:
        """The post has changed, or its first count is known. ``wake`` must follow."""
        self._changed[post] = None

    def wake(self) -> None:
        """Lets ``counts`` look again."""
        self._woken.set()

    def _take(self) -> list[tuple[str, Count]]:
        changed, self._changed = self._changed, {}
        counts: list[tuple[str, Count]] = []
        for post in changed:
            newest = post.newest
            if newest is not None and newest.version > self._told.get(post, -1):
                self._told[post] = newest.version
                counts.append((post.post_id, newest))
        return counts


class _Alarm:
    """Wakes watchers a slice at a time, in the order in which they came: calls are served in between."""

    def __init__(self) -> None:
        self._waiting: deque[Watcher] = deque()
        self._known: set[Watcher] = set()
        self._timer: asyncio.Handle | None = None

    def ring(self, watchers: Iterable[Watcher]) -> None:
        for watcher in watchers:
            if watcher not in self._known:
                self._known.add(watcher)
                self._waiting.append(watcher)
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        if not self._waiting:
            self._timer = None
            return
        for _ in range(min(SLICE, len(self._waiting))):
            watcher = self._waiting.popleft()
            self._known.discard(watcher)
            watcher.wake()
        self._timer = asyncio.get_running_loop().call_later(PAUSE, self._wake)


class Watches:
    """Lives on one event loop. Nothing runs while nobody watches."""

    def __init__(self, placements: Placements, *, clock: Callable[[], float] = monotonic) -> None:
        """``clock`` is what the pace of updates goes by, in seconds."""
        self._placements = placements
        self._clock = clock
        self._alarm = _Alarm()
        self._posts: dict[str, WatchedPost] = {}
        self._slots: dict[int, dict[str, WatchedPost]] = {}
        self._slot_count = 0
        self._places: dict[int, tuple[NodeWatch | None, int]] = {}
        """Slot → where its posts are watched, and at which epoch."""
        self._nodes: dict[NodeClient, NodeWatch] = {}
        self._watchers = 0
        self._asks = 0
        self._routing: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Watches {len(self._posts)} posts by {self._watchers} watchers at {len(self._nodes)} nodes>"

    @contextmanager
    def watch(self, post_ids: Iterable[str]) -> Iterator[Watcher]:
        """A watcher of these posts. Raises RouterOverloaded when there are too many."""
        distinct = dict.fromkeys(post_ids)
        new = [post_id for post_id in distinct if post_id not in self._posts]
        if self._watchers >= MOST_WATCHERS or len(self._posts) + len(new) > MOST_POSTS:
            raise RouterOverloaded(retry_after=_RETRY_SECONDS)
        watcher = Watcher()
        self._watchers += 1
        if self._slot_count != self._placements.slot_count:
            self._route()
        for post_id in distinct:
            self._join(watcher, post_id)
        if self._routing is None:
            self._routing = asyncio.create_task(self._keep_routed(), name="routes of watches")
        try:
            yield watcher
        finally:
            self._watchers -= 1
            for post_id in distinct:
                self._part(watcher, self._posts[post_id])
            if not self._watchers:
                self._end(self._routing)
                self._routing = None

    def next_ask(self) -> int:
        """See Told."""
        self._asks += 1
        return self._asks

    def changed(self, post_id: str, count: Count) -> None:
        """See Told."""
        post = self._posts.get(post_id)
        if post is not None and (post.newest is None or count.version > post.newest.version):
            post.newest = count
            self._tell(post)

    def answered(self, post_id: str, count: Count, ask: int) -> None:
        """See Told."""
        self.changed(post_id, count)
        post = self._posts.get(post_id)
        if post is None:
            return
        # Their first count is one that was read after they had come: what they know of already is in it.
        primed = [watcher for watcher, too_early in post.unprimed.items() if ask > too_early]
        for watcher in primed:
            del post.unprimed[watcher]
            post.watchers.add(watcher)
            watcher.note(post)
        self._alarm.ring(primed)

    def _tell(self, post: WatchedPost) -> None:
        """Tells whoever has had a count of the post, or does so as soon as it has rested."""
        if post.timer is not None or not post.watchers:
            return
        rest = post.rests_until - self._clock()
        if rest > 0:
            post.timer = asyncio.get_running_loop().call_later(rest, self._rested, post)
            return
        post.rests_until = self._clock() + UPDATE_INTERVAL
        for watcher in post.watchers:
            watcher.note(post)
        self._alarm.ring(post.watchers)

    def _rested(self, post: WatchedPost) -> None:
        post.timer = None
        post.rests_until = 0.0  # the loop's clock need not agree with ours
        self._tell(post)

    def _join(self, watcher: Watcher, post_id: str) -> None:
        post = self._posts.get(post_id)
        if post is None:
            slot = self._placements.slot_of(post_id)
            post = self._posts[post_id] = WatchedPost(post_id, slot)
            self._slots.setdefault(slot, {})[post_id] = post
            if slot not in self._places:
                self._places[slot] = self._place_of(post_id)
        post.unprimed[watcher] = self._asks
        node, epoch = self._places[post.slot]
        if node is not None:
            node.want(post_id, epoch)

    def _part(self, watcher: Watcher, post: WatchedPost) -> None:
        post.watchers.discard(watcher)
        post.unprimed.pop(watcher, None)
        if post.watchers or post.unprimed:
            return
        if post.timer is not None:
            post.timer.cancel()
        del self._posts[post.post_id]
        posts = self._slots[post.slot]
        del posts[post.post_id]
        node, _ = self._places[post.slot]
        if not posts:
            del self._slots[post.slot]
            del self._places[post.slot]
        if node is not None:
            self._unwant(node, post.post_id)

    def _unwant(self, node: NodeWatch, post_id: str) -> None:
        node.unwant(post_id)
        if not len(node):
            del self._nodes[node.client]
            self._end(node.stop())

    def _place_of(self, post_id: str) -> tuple[NodeWatch | None, int]:
        client, epoch = self._placements.owner_of(post_id)
        if client is None:
            return None, epoch
        node = self._nodes.get(client)
        if node is None:
            node = self._nodes[client] = NodeWatch(client, self._placements, self)
        return node, epoch

    async def _keep_routed(self) -> None:
        while True:
            pulse = self._placements.pulse
            self._route()
            await pulse.wait()

    def _route(self) -> None:
        """Watches each post at the present owner of its slot."""
        if self._slot_count != self._placements.slot_count:
            self._slot_again()
        for slot, posts in self._slots.items():
            before, epoch_before = self._places[slot]
            node, epoch = self._places[slot] = self._place_of(next(iter(posts)))
            if (node, epoch) == (before, epoch_before):
                continue
            for post_id in posts:
                if node is not None:
                    node.want(post_id, epoch)
                if before is not None and before is not node:
                    self._unwant(before, post_id)

    def _slot_again(self) -> None:
        """The first topology has come: only now it is known how many slots there are."""
        self._slot_count = self._placements.slot_count
        places = {post.post_id: self._places[post.slot] for post in self._posts.values()}
        self._slots.clear()
        self._places.clear()
        for post in self._posts.values():
            post.slot = self._placements.slot_of(post.post_id)
            self._slots.setdefault(post.slot, {})[post.post_id] = post
            self._places.setdefault(post.slot, places[post.post_id])

    def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
