"""The like service in memory: the same answers as a cluster of one process that forgets all when it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final
from uuid import uuid4

from likering import validation
from likering.client.intents import wall_clock
from likering.client.memory_feed import SLOTS, ChangeLog, Purge
from likering.client.memory_watch import MemoryWatch, WatchedPosts
from likering.client.model import (
    Action,
    EventKind,
    Exactness,
    LikeCount,
    LikedPost,
    LikedPostsPage,
    Liker,
    LikersPage,
    LikeState,
    LikeSummaries,
    LikeSummary,
    MutationResult,
    Outcome,
    time_of,
)
from likering.cursors import FROM_NOW, Cursors
from likering.errors import InvalidArgument, VersionAhead
from likering.paging import PageTokens
from likering.ring.hashing import slot_of
from likering.validation import (
    Violations,
    count_violations,
    events_violations,
    filter_violations,
    has_liked_violations,
    like_violations,
    list_violations,
    mutate_violations,
    mutation_violations,
    summaries_violations,
    watch_violations,
)

_NEWEST: Final = 2**63 - 1
"""A revision above all there are."""


class _Edge:
    """A pair of user and post that was ever touched; with ``liked`` False it is a tombstone. Times in µs."""

    __slots__ = ("first_revision", "intent", "liked", "liked_at")

    def __init__(self) -> None:
        self.liked = False
        self.intent = 0
        self.liked_at = 0
        self.first_revision = 0

    @property
    def revision(self) -> int:
        return self.liked_at


class _Post:
    __slots__ = ("count", "edges", "version")

    def __init__(self) -> None:
        self.count = 0
        self.version = 0
        self.edges: dict[str, _Edge] = {}


class MemoryLikes:
    """Edges, counts and versions of all posts. Thread-safe; each call is one moment.

    Consistency levels make no difference here: every answer is exact. Intents are µs since 1970, 0 for none.
    ``now`` is the wall clock in µs. Tombstones are never swept.
    """

    def __init__(self, now: Callable[[], int] = wall_clock) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._posts: dict[str, _Post] = {}
        self._last_revision = 0
        self._tokens = PageTokens(uuid4().hex, "ListLikers")
        self._watched = WatchedPosts()
        self._cursors = Cursors(uuid4().hex, SLOTS)
        self.changes = ChangeLog()
        self._edges_of_users: dict[str, dict[str, _Edge]] = {}
        self._user_tokens = PageTokens(uuid4().hex, "ListLikedPosts")

    def apply(self, user_id: str, post_id: str, action: Action, intent: int) -> MutationResult:
        """Like or Unlike."""
        now = self._now()
        _refuse(like_violations(user_id, post_id, intent, now))
        with self._lock:
            return self._apply(user_id, post_id, action, intent, now)

    def mutate(self, mutations: Sequence[tuple[str, str, int, int]]) -> list[MutationResult]:
        """MutateLikes over (user, post, action, intent); an item that is wrong gets its error as its result."""
        _refuse(mutate_violations(len(mutations)))
        now = self._now()
        results = []
        with self._lock:
            for index, (user_id, post_id, action, intent) in enumerate(mutations):
                violations = mutation_violations(index, user_id, post_id, action, intent, now)
                results.append(
                    MutationResult(error=InvalidArgument.of(violations))
                    if violations
                    else self._apply(user_id, post_id, action, intent, now)
                )
        return results

    def like_state(self, user_id: str, post_id: str, consistency: int, min_version: int) -> LikeState:
        """HasLiked."""
        _refuse(has_liked_violations(user_id, post_id, consistency, min_version))
        with self._lock:
            post = self._post_at(post_id, min_version)
            edge = post.edges.get(user_id) if post is not None else None
            liked_at = time_of(edge.liked_at) if edge is not None and edge.liked else None
            return LikeState(liked_at is not None, liked_at, Exactness.EXACT, time_of(self._now()))

    def like_count(self, post_id: str, consistency: int, min_version: int) -> LikeCount:
        """GetLikeCount."""
        _refuse(count_violations(post_id, consistency, min_version))
        with self._lock:
            return self._count(post_id, self._post_at(post_id, min_version))

    def summaries(self, post_ids: Sequence[str], viewer: str, consistency: int) -> LikeSummaries:
        """GetLikeSummaries; an empty viewer is nobody."""
        _refuse(summaries_violations(post_ids, viewer, consistency))
        with self._lock:
            return LikeSummaries(tuple(self._summary(post_id, viewer) for post_id in post_ids))

    def filter_likers(
        self, post_id: str, user_ids: Sequence[str], consistency: int, min_version: int
    ) -> list[str]:
        """FilterLikers."""
        _refuse(filter_violations(post_id, user_ids, consistency, min_version))
        with self._lock:
            self._post_at(post_id, min_version)
            return [user_id for user_id in user_ids if self._likes(user_id, post_id)]

    def list_likers(self, post_id: str, page_size: int, page_token: str) -> LikersPage:
        """ListLikers."""
        _refuse(list_violations("post_id", post_id, page_size))
        (before,) = self._tokens.read(post_id, page_token) if page_token else (_NEWEST,)
        size = validation.page_size(page_size)
        with self._lock:
            post = self._posts.get(post_id)
            edges = post.edges.items() if post is not None else ()
            found = [(edge.liked_at, user) for user, edge in edges if edge.liked and edge.liked_at < before]
            found.sort(reverse=True)
            page = found[:size]
            token = self._tokens.make(post_id, page[-1][0]) if len(found) > size else ""
            likes = tuple(Liker(user_id, time_of(liked_at)) for liked_at, user_id in page)
            return LikersPage(likes, token, self._count(post_id, post))

    @contextmanager
    def watch(self, post_ids: Sequence[str], wake: Callable[[], None]) -> Iterator[MemoryWatch]:
        """WatchLikeCounts. ``wake`` is called, from any thread, when there may be something to take."""
        _refuse(watch_violations(post_ids))
        distinct = list(dict.fromkeys(post_ids))
        watch = MemoryWatch(wake)
        with self._lock:
            self._watched.add(watch, distinct)
            for post_id in distinct:
                watch.changed(self._count(post_id, self._posts.get(post_id)))
        try:
            yield watch
        finally:
            with self._lock:
                self._watched.remove(watch, distinct)

    def list_liked_posts(self, user_id: str, page_size: int, page_token: str) -> LikedPostsPage:
        """ListLikedPosts, at once."""
        _refuse(list_violations("user_id", user_id, page_size))
        before = self._user_tokens.read_after(user_id, page_token) if page_token else (_NEWEST, "")
        size = validation.page_size(page_size)
        with self._lock:
            edges = self._edges_of_users.get(user_id, {}).items()
            found = [(edge.liked_at, post) for post, edge in edges if edge.liked]
        found = sorted((place for place in found if place < before), reverse=True)
        page = found[:size]
        token = self._user_tokens.make_after(user_id, *page[-1]) if len(found) > size else ""
        return LikedPostsPage(
            tuple(LikedPost(post_id, time_of(liked_at)) for liked_at, post_id in page), token
        )

    def _apply(self, user_id: str, post_id: str, action: int, intent: int, now: int) -> MutationResult:
        # Mirrors the fold of the shard node, one operation at a time.
        self._last_revision = revision = max(self._last_revision + 1, now)
        post = self._posts.get(post_id) or _Post()
        edge = post.edges.get(user_id) or _Edge()
        like = action == Action.LIKE
        if 0 < intent < edge.intent:
            outcome = Outcome.SUPERSEDED
        elif edge.liked == like:
            outcome = Outcome.UNCHANGED
            if intent > edge.intent:
                # Remembered even though nothing changed: a late retry of something older must lose. For an edge
                # that was never seen this makes a tombstone.
                edge.intent = intent
                self._keep(user_id, edge, post_id, post)
        else:
            outcome = Outcome.CHANGED
            edge.intent = max(edge.intent, intent or revision)
            edge.liked = like
            before, edge.liked_at = edge.liked_at, revision
            edge.first_revision = edge.first_revision or revision
            post.count += 1 if like else -1
            post.version += 1
            self._keep(user_id, edge, post_id, post)
            self.changes.changed(user_id, post_id, edge, before)
        count = self._count(post_id, post)
        if outcome is Outcome.CHANGED:
            for watch in self._watched.of(post_id):
                watch.changed(count)
        return MutationResult(outcome, count)

    def _keep(self, user_id: str, edge: _Edge, post_id: str, post: _Post) -> None:
        post.edges[user_id] = edge
        self._posts[post_id] = post
        self._edges_of_users.setdefault(user_id, {})[post_id] = edge

    def _count(self, post_id: str, post: _Post | None) -> LikeCount:
        count, version = (post.count, post.version) if post is not None else (0, 0)
        return LikeCount(post_id, count, version, Exactness.EXACT, time_of(self._now()))

    def _summary(self, post_id: str, viewer: str) -> LikeSummary:
        count = self._count(post_id, self._posts.get(post_id))
        if not viewer:
            return LikeSummary(count, False)
        return LikeSummary(count, self._likes(viewer, post_id), Exactness.EXACT, count.as_of_time)

    def _likes(self, user_id: str, post_id: str) -> bool:
        post = self._posts.get(post_id)
        edge = post.edges.get(user_id) if post is not None else None
        return edge is not None and edge.liked

    def _post_at(self, post_id: str, min_version: int) -> _Post | None:
        post = self._posts.get(post_id)
        version = post.version if post is not None else 0
        if version < min_version:
            raise VersionAhead(metadata={"version": str(version), "min_version": str(min_version)})
        return post

    def purge_post(self, post_id: str) -> None:
        """LikeAdminService.PurgePost, in one moment."""
        with self._lock:
            post = self._posts.get(post_id)
            edges = [(user_id, post_id) for user_id in post.edges] if post is not None else []
            self._erase(edges)
            if edges:
                self.changes.purged("", post_id, slot_of(post_id, SLOTS), self._revision(), len(edges))

    def purge_user(self, user_id: str) -> None:
        """LikeAdminService.PurgeUser, in one moment."""
        with self._lock:
            edges = [(user_id, post_id) for post_id in self._edges_of_users.get(user_id, ())]
            self._erase(edges)
            slots = Counter(slot_of(post_id, SLOTS) for _, post_id in edges)
            for slot, erased in slots.items():
                self.changes.purged(user_id, "", slot, self._revision(), erased)

    def _erase(self, edges: Sequence[tuple[str, str]]) -> None:
        """Of user and post. Those that are liked are ended first, each at a version of its own."""
        for user_id, post_id in edges:
            post = self._posts[post_id]
            edge = post.edges.pop(user_id)
            del self._edges_of_users[user_id][post_id]
            if edge.liked:
                post.count -= 1
                post.version += 1
            edge.liked, edge.liked_at, edge.first_revision = False, 0, 0
        for post_id in dict.fromkeys(post_id for _, post_id in edges):
            count = self._count(post_id, self._posts[post_id])
            for watch in self._watched.of(post_id):
                watch.changed(count)

    def _revision(self) -> int:
        self._last_revision = max(self._last_revision + 1, self._now())
        return self._last_revision

    def next_events(
        self, positions: dict[int, int], max_batch: int
    ) -> tuple[list[tuple[str, str, bool, bool, datetime, LikeCount, EventKind, int]], str]:
        """The next fields of events of StreamLikeEvents, and the cursor after them. Moves the positions on."""
        with self._lock:
            found, end = self.changes.after(positions, self._last_revision, validation.batch_size(max_batch))
            for slot, position in positions.items():
                positions[slot] = max(position, end)
            events = []
            for (user_id, post_id, changed, slot), first in found:
                count = self._count(post_id, self._posts.get(post_id))
                since = time_of(changed.revision)
                kind = EventKind.EDGE
                if isinstance(changed, Purge):
                    kind = EventKind.POST_PURGED if post_id else EventKind.USER_PURGED
                liked = self._likes(user_id, post_id)
                events.append((user_id, post_id, liked, first, since, count, kind, slot))
            return events, self._cursors.make(positions)

    def cursor(self, positions: Mapping[int, int]) -> str:
        """The cursor of a consumer who stands there."""
        return self._cursors.make(positions)

    def begin_events(
        self, cursor: str, slots: Sequence[int], from_now: bool, max_batch: int
    ) -> dict[int, int]:
        """Where StreamLikeEvents begins: slot → revision."""
        _refuse(events_violations(max_batch))
        positions = self._cursors.begin(cursor, slots, from_now=from_now).positions
        with self._lock:
            return {
                slot: self._last_revision if position == FROM_NOW else position
                for slot, position in positions.items()
            }


def _refuse(violations: Violations) -> None:
    if violations:
        raise InvalidArgument.of(violations)
