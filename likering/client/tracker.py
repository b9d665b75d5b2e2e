"""LikeTracker: likes and counts from synchronous code, in memory or on a cluster."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc

from likering.client.caller import MONOTONIC, Caller, Clock
from likering.client.calls import (
    Apply,
    Call,
    Filter,
    GetCount,
    GetState,
    GetSummaries,
    ListLikedPosts,
    ListLikers,
    Mutate,
)
from likering.client.connect import (
    ChannelOption,
    ClientClosed,
    Target,
    Tls,
    Token,
    check_address,
    checked_timeout,
)
from likering.client.feed import PROGRESS_INTERVAL, EventBatch, MemoryFeed, StreamLikeEvents
from likering.client.intents import stamped, stamped_all
from likering.client.memory import MemoryLikes
from likering.client.model import (
    Action,
    Consistency,
    IntentTime,
    LikeCount,
    LikedPost,
    LikedPostsPage,
    Liker,
    LikersPage,
    LikeState,
    LikeSummaries,
    Mutation,
    MutationResult,
)
from likering.client.renewal import BlockingLines
from likering.client.retry import RetryPolicy
from likering.client.watching import Watch
from likering.validation import MAX_PAGE

T = TypeVar("T")


class LikeTracker:
    """Who liked which post, and how many. Thread-safe; use one for a whole process.

    ``LikeTracker()`` keeps everything in memory; ``LikeTracker("host:port")`` asks a cluster and behaves the same,
    except that its calls may fail: with the classes of likering.errors, ``ServiceUnreachable`` among them.

    Ids are any text of 1 to 128 bytes of UTF-8 without NUL; others raise a subclass of ``InvalidArgument``.

    Each like and unlike is stamped with an intent time that only grows within the process. So it is safe to try
    again, and a late arrival of an older one changes nothing. If an attempt took effect but its answer got lost, the
    next one finds the work done: the answer is then False, although this call did it.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 5.0,
        credentials: Tls | None = None,
        token: Token | None = None,
        retry: RetryPolicy | None = None,
        channel_options: Sequence[ChannelOption] = (),
    ) -> None:
        """No connection is made yet: the first call or ``connect`` does, and so does a ``with`` block.

        ``address``: host:port of a router, or a gRPC target; None for memory. ``timeout``: seconds per call, all its
        attempts together. ``credentials``: TLS, from likering.client.credentials, or ``grpc.ssl_channel_credentials``.
        ``token``: sent as bearer token with each call. A function that gives credentials or tokens is asked before each
        attempt; once it gives other credentials calls take a new connection. ``channel_options``: further gRPC options.
        """
        calls: _Carrier
        if address is None:
            calls = _InMemory()
        else:
            target = Target(
                check_address(address), credentials=credentials, token=token, options=channel_options
            )
            calls = Caller(BlockingLines(target), target, retry or RetryPolicy())
        self._assemble(calls, timeout, repr(address) if address is not None else "")

    @classmethod
    def over(
        cls,
        channel: grpc.Channel,
        *,
        timeout: float = 5.0,
        token: Token | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock = MONOTONIC,
        jitter: Callable[[], float] = random.random,
    ) -> Self:
        """A tracker over a channel of your own, with interceptors for instance. ``close`` closes it.

        ``clock`` and ``jitter`` (numbers from 0 up to 1) are what the retries go by.
        """
        tracker = cls.__new__(cls)
        target = Target("the given channel", token=token)
        lines = BlockingLines(target, channel)
        calls = Caller(lines, target, retry or RetryPolicy(), clock=clock, jitter=jitter)
        tracker._assemble(calls, timeout, "over a given channel")
        return tracker

    def _assemble(self, calls: _Carrier, timeout: float, name: str) -> None:
        self._calls = calls
        self._timeout = checked_timeout(timeout)
        self._name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name})"

    def like(
        self,
        user_id: str,
        post_id: str,
        *,
        intent_time: IntentTime | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Records that the user likes the post. True if that changed something, once it is committed.

        ``intent_time``: when the user meant it; of two mutations of one edge the one meant later stands, in whatever
        order they arrive. Without it: now. A like that was meant before unlikes which are remembered no longer, some
        days ago, is refused: IntentTooOld.
        """
        return self.apply(Mutation(user_id, post_id, Action.LIKE, intent_time), timeout=timeout).changed

    def unlike(
        self,
        user_id: str,
        post_id: str,
        *,
        intent_time: IntentTime | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Takes a like back. True if that changed something; see ``like``."""
        return self.apply(Mutation(user_id, post_id, Action.UNLIKE, intent_time), timeout=timeout).changed

    def has_liked(
        self,
        user_id: str,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
        timeout: float | None = None,
    ) -> bool:
        """Whether the user likes the post."""
        state = self.get_like(
            user_id, post_id, consistency=consistency, min_version=min_version, timeout=timeout
        )
        return state.liked

    def like_count(
        self,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
        timeout: float | None = None,
    ) -> int:
        """How many users like the post. 0 for a post that nobody ever touched."""
        answer = self.get_like_count(
            post_id, consistency=consistency, min_version=min_version, timeout=timeout
        )
        return answer.count

    def apply(self, mutation: Mutation, *, timeout: float | None = None) -> MutationResult:
        """One like or unlike with its outcome, and the count right after it. Raises its error, if it has one."""
        return self._call(
            Apply(mutation.user_id, mutation.post_id, mutation.action, stamped(mutation.intent_time)), timeout
        )

    def mutate(self, mutations: Iterable[Mutation], *, timeout: float | None = None) -> list[MutationResult]:
        """Applies 1 to 1000 mutations; the results are in their order.

        Not atomic: each succeeds or fails by itself, and its result holds its error. Mutations of one edge take
        effect in the order given, those of different edges in any; each is answered with the count right after it.
        """
        return self._call(Mutate(stamped_all(mutations)), timeout)

    def get_like(
        self,
        user_id: str,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
        timeout: float | None = None,
    ) -> LikeState:
        """Whether the user likes the post, since when, and who says so: with ``STALE_OK`` it may be a replica.

        ``min_version``: the answer includes this version of the post, from an earlier answer; VersionAhead if the
        post has not got so far.
        """
        return self._call(GetState(user_id, post_id, consistency, min_version), timeout)

    def get_like_count(
        self,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
        timeout: float | None = None,
    ) -> LikeCount:
        """Count and version of the post at one moment, and how exact they are. ``min_version``: see ``get_like``."""
        return self._call(GetCount(post_id, consistency, min_version), timeout)

    def summaries(
        self,
        post_ids: Sequence[str],
        viewer: str | None = None,
        *,
        consistency: Consistency = Consistency.CACHED,
        partial: bool = False,
        timeout: float | None = None,
    ) -> LikeSummaries:
        """The counts of 1 to 200 posts, and which of them the viewer likes: a page of a feed in one call.

        ``partial``: answer without the posts whose shard does not answer, and list them; otherwise one of them fails
        the call.
        """
        return self._call(GetSummaries(tuple(post_ids), viewer or "", consistency, partial), timeout)

    def filter_likers(
        self,
        post_id: str,
        user_ids: Sequence[str],
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
        timeout: float | None = None,
    ) -> list[str]:
        """Which of 1 to 1000 users like the post, in the order given. ``min_version``: see ``get_like``.

        With ``STALE_OK`` a replica may answer, and this does not tell; ``get_like`` and ``summaries`` do.
        """
        return self._call(Filter(post_id, tuple(user_ids), consistency, min_version), timeout)

    def list_likers(
        self, post_id: str, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> LikersPage:
        """One page of who likes the post, newest like first.

        ``page_size``: at most so many, 1000 the most; 0: as the service likes. ``page_token``: ``next_page_token`` of
        the page before.
        """
        return self._call(ListLikers(post_id, page_size, page_token), timeout)

    def likers(
        self, post_id: str, *, page_size: int = MAX_PAGE, timeout: float | None = None
    ) -> Iterator[Liker]:
        """Everybody who likes the post, newest like first, page by page while it is iterated.

        While likes come and go meanwhile, no user comes twice, and nobody is left out who likes the post all the time.
        ``timeout`` is for each page.
        """
        token = ""
        while True:
            page = self.list_likers(post_id, page_size=page_size, page_token=token, timeout=timeout)
            yield from page
            token = page.next_page_token
            if not token:
                return

    def watch(
        self, post_ids: Sequence[str], *, timeout: float | None = None
    ) -> Generator[LikeCount, None, None]:
        """The counts of 1 to 200 posts as they change: of each the present one first, then at most ten a second.

        Never ends by itself; close the iterator, or the whole client. Counts that come faster than they are taken
        are left out but for the newest; the last one always comes. Of one post the versions only grow. Connects anew
        whenever the service is away, and waits for it; but if it has not answered at all within ``timeout`` seconds,
        raises why. Each iterator holds one stream of the connection, which has some 1500.
        """
        return self._calls.watch(
            Watch(tuple(post_ids)), self._timeout if timeout is None else checked_timeout(timeout)
        )

    def events(
        self, *, cursor: str = "", slots: Sequence[int] = (), from_now: bool = False, max_batch: int = 0
    ) -> Generator[EventBatch, None, None]:
        """The changes of likes, batch by batch, for as long as it is iterated.

        ``cursor``: that of the last batch whose effects are stored. Without one it begins with an event for each edge,
        or, with ``from_now``, with what changes from now on. ``slots``: only posts of these slots; with a cursor, of
        those that it covers. ``max_batch``: most events of a batch, 2000 the most; 0: as the service likes.

        At least once, in order for each post; of several changes of an edge a consumer that is behind may get only
        the last. What was purged meanwhile is an event, too: see ``LikeEvent.kind``. The first batch is empty, and so
        is one now and then. Goes on by itself when the connection breaks, and gives up after a minute without one.
        Close the iterator to leave it early: it holds a stream of the connection.
        Raises CursorExpired when unlikes are remembered no longer of which the consumer was not told.
        """
        return self._calls.follow(StreamLikeEvents(tuple(slots), from_now, max_batch), cursor)

    def list_liked_posts(
        self, user_id: str, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> LikedPostsPage:
        """One page of what the user likes, newest like first; ``page_size`` and ``page_token`` as in ``list_likers``.

        It follows likes and unlikes after some moments; ``has_liked`` sees them at once.
        """
        return self._call(ListLikedPosts(user_id, page_size, page_token), timeout)

    def liked_posts(
        self, user_id: str, *, page_size: int = MAX_PAGE, timeout: float | None = None
    ) -> Iterator[LikedPost]:
        """Everything that the user likes, newest like first, page by page; see ``likers`` and ``list_liked_posts``."""
        token = ""
        while True:
            page = self.list_liked_posts(user_id, page_size=page_size, page_token=token, timeout=timeout)
            yield from page
            token = page.next_page_token
            if not token:
                return

    def connect(self, *, timeout: float | None = None) -> None:
        """Waits until the service answers. ServiceUnreachable says at once, in a sentence, why it cannot."""
        self._calls.connect(self._timeout if timeout is None else checked_timeout(timeout))

    def close(self) -> None:
        """Ends the calls under way with ClientClosed; later ones raise it, too. May be called twice."""
        self._calls.close()

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, call: Call[T], timeout: float | None) -> T:
        return self._calls(call, self._timeout if timeout is None else checked_timeout(timeout))


class _Carrier(Protocol):
    """Carries out calls: on a channel (``Caller``) or in memory."""

    def __call__(self, call: Call[T], timeout: float) -> T: ...
    def watch(self, watch: Watch, patience: float) -> Generator[LikeCount, None, None]: ...

    def follow(self, wanted: StreamLikeEvents, cursor: str) -> Generator[EventBatch, None, None]: ...
    def connect(self, timeout: float) -> None: ...
    def close(self) -> None: ...


class _InMemory:
    def __init__(self) -> None:
        self._memory = MemoryLikes()
        self._closed = False
        self._watching: set[threading.Event] = set()

    def __call__(self, call: Call[T], timeout: float) -> T:
        if self._closed:
            raise ClientClosed
        return call.in_memory(self._memory)

    def watch(self, watch: Watch, patience: float) -> Generator[LikeCount, None, None]:
        woken = threading.Event()
        self._watching.add(woken)
        try:
            with self._memory.watch(watch.post_ids, woken.set) as watched:
                while not self._closed:
                    woken.clear()
                    counts, due_in = watched.take()
                    yield from counts
                    woken.wait(due_in)
        finally:
            self._watching.discard(woken)
        raise ClientClosed

    def follow(self, wanted: StreamLikeEvents, cursor: str) -> Generator[EventBatch, None, None]:
        feed = MemoryFeed(self._memory, wanted, cursor)
        changed = threading.Event()
        with self._memory.changes.watched(changed.set):
            while not self._closed:
                changed.clear()
                if feed.due() or not changed.wait(PROGRESS_INTERVAL):
                    yield feed.batch
        raise ClientClosed

    def connect(self, timeout: float) -> None:
        if self._closed:
            raise ClientClosed

    def close(self) -> None:
        self._closed = True
        for woken in list(self._watching):
            woken.set()
        self._memory.changes.wake()
