"""What the suite runs over: the clients behind one synchronous face, whatever carries them out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from likering import (
    AsyncLikes,
    Consistency,
    EventBatch,
    IntentTime,
    LikeCount,
    LikedPost,
    LikedPostsPage,
    Liker,
    LikersPage,
    LikeState,
    LikeSummaries,
    LikeTracker,
    Mutation,
    MutationResult,
)
from likering.client.memory import MemoryLikes
from likering.validation import MAX_PAGE

T = TypeVar("T")


class Likes(Protocol):
    """What LikeTracker and AsyncLikes have in common, as synchronous methods."""

    def like(self, user_id: str, post_id: str, *, intent_time: IntentTime | None = ...) -> bool: ...
    def unlike(self, user_id: str, post_id: str, *, intent_time: IntentTime | None = ...) -> bool: ...
    def has_liked(
        self, user_id: str, post_id: str, *, consistency: Consistency = ..., min_version: int = ...
    ) -> bool: ...
    def like_count(self, post_id: str, *, consistency: Consistency = ..., min_version: int = ...) -> int: ...
    def apply(self, mutation: Mutation) -> MutationResult: ...
    def mutate(self, mutations: Sequence[Mutation]) -> list[MutationResult]: ...
    def get_like(
        self, user_id: str, post_id: str, *, consistency: Consistency = ..., min_version: int = ...
    ) -> LikeState: ...
    def get_like_count(
        self, post_id: str, *, consistency: Consistency = ..., min_version: int = ...
    ) -> LikeCount: ...
    def summaries(
        self,
        post_ids: Sequence[str],
        viewer: str | None = ...,
        *,
        consistency: Consistency = ...,
        partial: bool = ...,
    ) -> LikeSummaries: ...
    def filter_likers(
        self, post_id: str, user_ids: Sequence[str], *, consistency: Consistency = ..., min_version: int = ...
    ) -> list[str]: ...
    def list_likers(self, post_id: str, *, page_size: int = ..., page_token: str = ...) -> LikersPage: ...
    def likers(self, post_id: str, *, page_size: int = ...) -> Iterable[Liker]: ...
    def watch(self, post_ids: Sequence[str]) -> Generator[LikeCount, None, None]: ...

    def events(
        self, *, cursor: str = ..., slots: Sequence[int] = ..., from_now: bool = ..., max_batch: int = ...
    ) -> Iterator[EventBatch]: ...

    def list_liked_posts(
        self, user_id: str, *, page_size: int = ..., page_token: str = ...
    ) -> LikedPostsPage: ...
    def liked_posts(self, user_id: str, *, page_size: int = ...) -> Iterable[LikedPost]: ...
    def apply_at_once(self, mutations: Sequence[Mutation]) -> list[MutationResult]:
        """Single calls in their order, as close together as the client can make them."""


class Synchronous(LikeTracker):
    """LikeTracker, which makes one call after another."""

    def apply_at_once(self, mutations: Sequence[Mutation]) -> list[MutationResult]:
        return [self.apply(mutation) for mutation in mutations]


class Portal:
    """AsyncLikes in an event loop of its own, in a thread of its own; each method waits for its answer."""

    def __init__(self, address: str | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._likes = AsyncLikes(address, timeout=30.0)

    def close(self) -> None:
        self._run(self._likes.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def apply_at_once(self, mutations: Sequence[Mutation]) -> list[MutationResult]:
        async def gathered() -> list[MutationResult]:
            return await asyncio.gather(*(self._likes.apply(mutation) for mutation in mutations))

        return self._run(gathered())

    def likers(self, post_id: str, *, page_size: int = MAX_PAGE) -> list[Liker]:
        async def gathered() -> list[Liker]:
            return [like async for like in self._likes.likers(post_id, page_size=page_size)]

        return self._run(gathered())

    def watch(self, post_ids: Sequence[str]) -> Generator[LikeCount, None, None]:
        async def begun() -> AsyncGenerator[LikeCount, None]:
            return self._likes.watch(post_ids)

        counts = self._run(begun())

        async def following() -> LikeCount:
            return await anext(counts)

        def blocking() -> Generator[LikeCount, None, None]:
            try:
                while True:
                    yield self._run(following())
            finally:
                self._run(counts.aclose())

        return blocking()

    def events(self, **options: Any) -> Iterator[EventBatch]:
        batches = self._likes.events(**options)
        try:
            while True:
                yield self._run(anext(batches))
        finally:
            self._run(batches.aclose())

    def liked_posts(self, user_id: str, *, page_size: int = MAX_PAGE) -> list[LikedPost]:
        async def gathered() -> list[LikedPost]:
            return [like async for like in self._likes.liked_posts(user_id, page_size=page_size)]

        return self._run(gathered())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._likes, name)
        return lambda *arguments, **options: self._run(method(*arguments, **options))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def memory_of(likes: Any) -> MemoryLikes:
    """What a client without a server works on."""
    client = likes._likes if isinstance(likes, Portal) else likes._calls
    memory = client._memory
    assert isinstance(memory, MemoryLikes)
    return memory


def fresh(name: str) -> str:
    """An id that nobody has used before, so that tests over one cluster do not meet."""
    return f"{name}-{uuid4().hex[:12]}"
