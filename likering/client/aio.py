"""AsyncLikes: likes and counts from asyncio; concurrent calls travel together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

import grpc.aio

from likering.client.aio_caller import AioCaller
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
    alone,
    count_of,
    error_of,
    refuse,
    result_of,
)
from likering.client.coalescing import Coalescer
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
from likering.client.intents import PROCESS_CLOCK, stamped, stamped_all
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
    micros_of,
)
from likering.client.renewal import AioLines
from likering.client.retry import RetryPolicy
from likering.client.watching import Watch
from likering.v1 import like_service_pb2 as pb
from likering.validation import MAX_PAGE, action_violations, count_violations, has_liked_violations

T = TypeVar("T")

_LIKE: Final = int(Action.LIKE)
_UNLIKE: Final = int(Action.UNLIKE)
_CHANGED: Final = pb.MUTATION_OUTCOME_CHANGED


class AsyncLikes:
    """Who liked which post, and how many, for asyncio. One for a whole event loop, which it belongs to.

    ``AsyncLikes()`` keeps everything in memory; ``AsyncLikes("host:port")`` asks a cluster. Answers, errors, ids and
    intents are those of ``LikeTracker``.

    Concurrent single calls travel together: likes and unlikes as MutateLikes, counts and ``has_liked`` as the batched
    reads that fit. A call that is alone leaves at once, at the end of the present tick of the loop. So a thousand
    callers that await single calls cost little more than one who sends lists.

    All calls of a batch share its deadline, ``timeout`` seconds after the first of them; for a shorter one, put
    ``asyncio.timeout`` around a call. A cancelled write that had left already may take effect.
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
        """The parameters are those of ``LikeTracker``. May be created before the event loop runs."""
        memory = target = None
        if address is None:
            memory = MemoryLikes()
        else:
            target = Target(
                check_address(address), credentials=credentials, token=token, options=channel_options
            )
        self._assemble(memory, target, None, timeout, retry, random.random)

    @classmethod
    def over(
        cls,
        channel: grpc.aio.Channel,
        *,
        timeout: float = 5.0,
        token: Token | None = None,
        retry: RetryPolicy | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> Self:
        """A client over a channel of your own, with interceptors for instance. ``close`` closes it."""
        likes = cls.__new__(cls)
        likes._assemble(None, Target("the given channel", token=token), channel, timeout, retry, jitter)
        return likes

    def _assemble(
        self,
        memory: MemoryLikes | None,
        target: Target | None,
        channel: grpc.aio.Channel | None,
        timeout: float,
        retry: RetryPolicy | None,
        jitter: Callable[[], float],
    ) -> None:
        self._memory = memory
        self._target = target
        self._channel = channel
        self._timeout = checked_timeout(timeout)
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._closed = False
        self._watching: set[asyncio.Event] = set()
        self._caller: AioCaller | None = None
        self._lanes: Coalescer | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({repr(self._target.address) if self._target else ''})"

    async def like(self, user_id: str, post_id: str, *, intent_time: IntentTime | None = None) -> bool:
        """Records that the user likes the post. True if that changed something, once it is committed."""
        # The hot path, a little longer so that it costs a call less.
        lanes = self._lanes or self._opened()
        if lanes is None:
            return self._in_memory(Apply(user_id, post_id, Action.LIKE, stamped(intent_time))).changed
        intent = PROCESS_CLOCK.next() if intent_time is None else micros_of(intent_time)
        result = await lanes.change(user_id, post_id, _LIKE, intent)
        return result.outcome == _CHANGED or _unchanged(result)

    async def unlike(self, user_id: str, post_id: str, *, intent_time: IntentTime | None = None) -> bool:
        """Takes a like back. True if that changed something, once it is committed."""
        lanes = self._lanes or self._opened()
        if lanes is None:
            return self._in_memory(Apply(user_id, post_id, Action.UNLIKE, stamped(intent_time))).changed
        intent = PROCESS_CLOCK.next() if intent_time is None else micros_of(intent_time)
        result = await lanes.change(user_id, post_id, _UNLIKE, intent)
        return result.outcome == _CHANGED or _unchanged(result)

    async def has_liked(
        self,
        user_id: str,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
    ) -> bool:
        """Whether the user likes the post."""
        lanes = self._lanes or self._opened()
        if lanes is None or min_version:
            return (await self._call(GetState(user_id, post_id, consistency, min_version))).liked
        refuse(has_liked_violations(user_id, post_id, consistency, min_version))
        return await lanes.liked(user_id, post_id, consistency)

    async def like_count(
        self, post_id: str, *, consistency: Consistency = Consistency.CACHED, min_version: int = 0
    ) -> int:
        """How many users like the post. 0 for a post that nobody ever touched."""
        lanes = self._lanes or self._opened()
        if lanes is None or min_version:
            return (await self._call(GetCount(post_id, consistency, min_version))).count
        refuse(count_violations(post_id, consistency, min_version))
        return (await lanes.count(post_id, consistency)).count

    async def apply(self, mutation: Mutation) -> MutationResult:
        """One like or unlike with its outcome, and the count right after it. Raises its error, if it has one."""
        lanes = self._lanes or self._opened()
        intent = stamped(mutation.intent_time)
        if lanes is None:
            return self._in_memory(Apply(mutation.user_id, mutation.post_id, mutation.action, intent))
        refuse(action_violations(mutation.action))
        result = await lanes.change(mutation.user_id, mutation.post_id, mutation.action, intent)
        return result_of(result) if result.outcome else _failed(result)

    async def mutate(self, mutations: Iterable[Mutation]) -> list[MutationResult]:
        """Applies 1 to 1000 mutations in a call of their own; see ``LikeTracker.mutate``."""
        return await self._call(Mutate(stamped_all(mutations)))

    async def get_like(
        self,
        user_id: str,
        post_id: str,
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
    ) -> LikeState:
        """Whether the user likes the post, and since when; see ``LikeTracker.get_like``. Travels alone."""
        return await self._call(GetState(user_id, post_id, consistency, min_version))

    async def get_like_count(
        self, post_id: str, *, consistency: Consistency = Consistency.CACHED, min_version: int = 0
    ) -> LikeCount:
        """Count and version of the post at one moment, and how exact they are."""
        lanes = self._lanes or self._opened()
        if lanes is None or min_version:
            return await self._call(GetCount(post_id, consistency, min_version))
        refuse(count_violations(post_id, consistency, min_version))
        return count_of(await lanes.count(post_id, consistency))

    async def summaries(
        self,
        post_ids: Sequence[str],
        viewer: str | None = None,
        *,
        consistency: Consistency = Consistency.CACHED,
        partial: bool = False,
    ) -> LikeSummaries:
        """The counts of 1 to 200 posts, and which of them the viewer likes; see ``LikeTracker.summaries``."""
        return await self._call(GetSummaries(tuple(post_ids), viewer or "", consistency, partial))

    async def filter_likers(
        self,
        post_id: str,
        user_ids: Sequence[str],
        *,
        consistency: Consistency = Consistency.CACHED,
        min_version: int = 0,
    ) -> list[str]:
        """Which of 1 to 1000 users like the post, in the order given."""
        return await self._call(Filter(post_id, tuple(user_ids), consistency, min_version))

    async def list_likers(self, post_id: str, *, page_size: int = 0, page_token: str = "") -> LikersPage:
        """One page of who likes the post, newest like first; see ``LikeTracker.list_likers``."""
        return await self._call(ListLikers(post_id, page_size, page_token))

    async def likers(self, post_id: str, *, page_size: int = MAX_PAGE) -> AsyncGenerator[Liker, None]:
        """Everybody who likes the post, newest like first, page by page; see ``LikeTracker.likers``."""
        token = ""
        while True:
            page = await self.list_likers(post_id, page_size=page_size, page_token=token)
            for like in page:
                yield like
            token = page.next_page_token
            if not token:
                return

    def watch(
        self, post_ids: Sequence[str], *, timeout: float | None = None
    ) -> AsyncGenerator[LikeCount, None]:
        """The counts of 1 to 200 posts as they change; see ``LikeTracker.watch``.

        To leave the iterator early, close it: ``async with contextlib.aclosing(likes.watch(…)) as counts``.
        """
        watch = Watch(tuple(post_ids))
        patience = self._timeout if timeout is None else checked_timeout(timeout)
        self._opened()
        if self._caller is None:
            return self._watch_memory(watch)
        return self._caller.watch(watch, patience)

    async def _watch_memory(self, watch: Watch) -> AsyncGenerator[LikeCount, None]:
        assert self._memory is not None
        woken = asyncio.Event()
        self._watching.add(woken)
        try:
            with self._memory.watch(watch.post_ids, woken.set) as watched:
                while not self._closed:
                    woken.clear()
                    counts, due_in = watched.take()
                    for count in counts:
                        yield count
                    with suppress(TimeoutError):
                        async with asyncio.timeout(due_in):
                            await woken.wait()
        finally:
            self._watching.discard(woken)
        raise ClientClosed

    async def events(
        self, *, cursor: str = "", slots: Sequence[int] = (), from_now: bool = False, max_batch: int = 0
    ) -> AsyncGenerator[EventBatch, None]:
        """The changes of likes, batch by batch, for as long as it is iterated; see ``LikeTracker.events``."""
        self._opened()
        wanted = StreamLikeEvents(tuple(slots), from_now, max_batch)
        following = (
            self._caller.follow(wanted, cursor) if self._caller else self._follow_memory(wanted, cursor)
        )
        async with aclosing(following) as batches:
            async for batch in batches:
                yield batch

    async def list_liked_posts(
        self, user_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> LikedPostsPage:
        """One page of what the user likes, newest like first; see ``LikeTracker.list_liked_posts``."""
        return await self._call(ListLikedPosts(user_id, page_size, page_token))

    async def liked_posts(
        self, user_id: str, *, page_size: int = MAX_PAGE
    ) -> AsyncGenerator[LikedPost, None]:
        """Everything that the user likes, newest like first, page by page; see ``LikeTracker.liked_posts``."""
        token = ""
        while True:
            page = await self.list_liked_posts(user_id, page_size=page_size, page_token=token)
            for like in page:
                yield like
            token = page.next_page_token
            if not token:
                return

    async def connect(self, *, timeout: float | None = None) -> None:
        """Waits until the service answers. ServiceUnreachable says at once, in a sentence, why it cannot."""
        self._opened()
        if self._caller is not None:
            await self._caller.connect(self._timeout if timeout is None else checked_timeout(timeout))

    async def close(self) -> None:
        """Takes no more calls, waits for the answers to those under way, then closes. May be called twice."""
        self._closed = True
        for woken in self._watching:
            woken.set()
        if self._memory is not None:
            self._memory.changes.wake()
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            await lanes.drain()
        if self._caller is not None:
            await self._caller.close()
        elif self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _opened(self) -> Coalescer | None:
        """The lanes, opened by the first call because they need the running loop; None in memory."""
        if self._closed:
            raise ClientClosed
        if self._lanes is None and self._target is not None:
            lines = AioLines(self._target, self._channel)
            self._caller = AioCaller(lines, self._target, self._retry, self._jitter)
            self._lanes = Coalescer(self._caller, timeout=self._timeout)
        return self._lanes

    async def _call(self, call: Call[T]) -> T:
        self._opened()
        if self._caller is None:
            return self._in_memory(call)
        return await self._caller(call, self._timeout)

    def _in_memory(self, call: Call[T]) -> T:
        assert self._memory is not None
        return call.in_memory(self._memory)

    async def _follow_memory(self, wanted: StreamLikeEvents, cursor: str) -> AsyncGenerator[EventBatch, None]:
        assert self._memory is not None
        feed = MemoryFeed(self._memory, wanted, cursor)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        with self._memory.changes.watched(lambda: loop.call_soon_threadsafe(changed.set)):
            while not self._closed:
                changed.clear()
                if feed.due():
                    yield feed.batch
                    continue
                try:
                    async with asyncio.timeout(PROGRESS_INTERVAL):
                        await changed.wait()
                except TimeoutError:
                    yield feed.batch
        raise ClientClosed


def _unchanged(result: pb.MutationResult) -> bool:
    """False for a mutation that changed nothing; its error raised, if it failed."""
    if not result.outcome:
        _failed(result)
    return False


def _failed(result: pb.MutationResult) -> NoReturn:
    raise alone(error_of(result))
