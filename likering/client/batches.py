"""What travels together: writes as one MutateLikes, counts and questions of who likes what as few batched reads.

A batch keeps a future per operation. Futures of writes and counts get the message's own part as their result, which is
turned into our dataclasses only by callers who want them. A future that is done already belongs to a caller who was
cancelled.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from likering.client.calls import Call, Filter, GetCount, GetState, GetSummaries, add_mutation
from likering.errors import InternalError, InvalidArgument, LikeringError, ShardUnavailable
from likering.v1 import like_service_pb2 as pb
from likering.validation import MAX_MUTATIONS, MAX_POSTS, MAX_USERS, like_violations, valid_ids

T = TypeVar("T")

_SERVER_DECIDES: Final = 2**63
"""As the present moment: whether an intent is too far ahead is for the server's clock to say."""


class Send(Protocol):
    """Sends one request and gives its response: method, request, seconds."""

    def __call__(self, method: str, request: Message, timeout: float, /) -> Awaitable[Any]: ...


Write: TypeAlias = "tuple[str, str, int, int, asyncio.Future[pb.MutationResult]]"
"""User, post, action, intent in µs since 1970, answer."""


class WriteBatch:
    """Likes and unlikes, as one MutateLikes."""

    __slots__ = ("_send", "writes")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.writes: list[Write] = []

    @property
    def full(self) -> bool:
        return len(self.writes) >= MAX_MUTATIONS

    def fail(self, error: LikeringError) -> None:
        fail_all((write[4] for write in self.writes), error)

    async def send(self, timeout: float) -> None:
        self._leave_out_the_wrong()
        if not self.writes:
            return
        try:
            response = await self._send("MutateLikes", self._request(), timeout)
        except LikeringError as error:
            self.fail(error)
            return
        if len(response.results) != len(self.writes):
            self.fail(InternalError(f"{len(self.writes)} mutations got {len(response.results)} results"))
            return
        for write, result in zip(self.writes, response.results, strict=True):
            if not write[4].done():
                write[4].set_result(result)

    def _leave_out_the_wrong(self) -> None:
        writes = self.writes
        if (
            valid_ids([write[0] for write in writes])
            and valid_ids([write[1] for write in writes])
            and min(write[3] for write in writes) >= 0
            and not any(write[4].done() for write in writes)
        ):
            return
        self.writes = []
        for write in writes:
            user_id, post_id, _, intent, answer = write
            violations = like_violations(user_id, post_id, intent, _SERVER_DECIDES)
            if violations:
                fail_all((answer,), InvalidArgument.of(violations))
            elif not answer.done():
                self.writes.append(write)

    def _request(self) -> pb.MutateLikesRequest:
        request = pb.MutateLikesRequest()
        for user_id, post_id, action, intent, _ in self.writes:
            add_mutation(request, user_id, post_id, action, intent)
        return request


class CountBatch:
    """Counts of posts, as one GetLikeSummaries. Whoever asks for the same post shares its place."""

    __slots__ = ("_consistency", "_send", "answers")

    def __init__(self, send: Send, consistency: int) -> None:
        self._send = send
        self._consistency = consistency
        self.answers: defaultdict[str, list[asyncio.Future[pb.LikeCount]]] = defaultdict(list)

    @property
    def full(self) -> bool:
        return len(self.answers) >= MAX_POSTS

    def fail(self, error: LikeringError) -> None:
        fail_all((answer for answers in self.answers.values() for answer in answers), error)

    async def send(self, timeout: float) -> None:
        try:
            if len(self.answers) == 1:
                (post_id,) = self.answers
                count = GetCount(post_id, self._consistency, 0)
                one = await self._send(count.method, count.request(), timeout)
                self._answer(post_id, one.like_count)
                return
            # Partial: one shard that is away fails only the questions that it should have answered.
            page = GetSummaries(tuple(self.answers), "", self._consistency, partial=True)
            response = await self._send(page.method, page.request(), timeout)
        except LikeringError as error:
            self.fail(error)
            return
        for summary in response.summaries:
            self._answer(summary.like_count.post_id, summary.like_count)
        for post_id in response.unreachable:
            fail_all(self.answers[post_id], ShardUnavailable())

    def _answer(self, post_id: str, count: pb.LikeCount) -> None:
        for answer in self.answers[post_id]:
            if not answer.done():
                answer.set_result(count)


class LikedBatch:
    """Questions whether a user likes a post: one FilterLikers for the users of one post, one GetLikeSummaries for the
    posts of one user, and HasLiked for those that have nothing in common with others."""

    __slots__ = ("_consistency", "_send", "_size", "answers")

    def __init__(self, send: Send, consistency: int) -> None:
        self._send = send
        self._consistency = consistency
        self._size = 0
        self.answers: defaultdict[str, defaultdict[str, list[asyncio.Future[bool]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """Post → user → who asked."""

    @property
    def full(self) -> bool:
        return self._size >= MAX_USERS

    def add(self, user_id: str, post_id: str, answer: asyncio.Future[bool]) -> None:
        self._size += 1
        self.answers[post_id][user_id].append(answer)

    def fail(self, error: LikeringError) -> None:
        for users in self.answers.values():
            for answers in users.values():
                fail_all(answers, error)

    async def send(self, timeout: float) -> None:
        await asyncio.gather(*self._questions(timeout))

    def _questions(self, timeout: float) -> Iterator[Awaitable[None]]:
        alone: defaultdict[str, list[str]] = defaultdict(list)
        for post_id, users in self.answers.items():
            if len(users) > 1:
                yield self._ask_about_post(post_id, timeout)
            else:
                (user_id,) = users
                alone[user_id].append(post_id)
        for user_id, post_ids in alone.items():
            posts = iter(post_ids)
            while page := tuple(islice(posts, MAX_POSTS)):
                if len(page) > 1:
                    yield self._ask_about_user(user_id, page, timeout)
                else:
                    yield self._ask_about_edge(user_id, page[0], timeout)

    async def _ask_about_post(self, post_id: str, timeout: float) -> None:
        users = self.answers[post_id]
        call = Filter(post_id, tuple(users), self._consistency, 0)
        response = await self._ask(call, [(user_id, post_id) for user_id in users], timeout)
        if response is not None:
            likers = frozenset(response.liked_user_ids)
            for user_id in users:
                self._answer(user_id, post_id, user_id in likers)

    async def _ask_about_user(self, user_id: str, post_ids: tuple[str, ...], timeout: float) -> None:
        # Partial: one shard that is away fails only the questions that it should have answered.
        call = GetSummaries(post_ids, user_id, self._consistency, partial=True)
        response = await self._ask(call, [(user_id, post_id) for post_id in post_ids], timeout)
        if response is not None:
            for summary in response.summaries:
                self._answer(user_id, summary.like_count.post_id, summary.viewer_has_liked)
            for post_id in response.unreachable:
                fail_all(self.answers[post_id][user_id], ShardUnavailable())

    async def _ask_about_edge(self, user_id: str, post_id: str, timeout: float) -> None:
        call = GetState(user_id, post_id, self._consistency, 0)
        response = await self._ask(call, [(user_id, post_id)], timeout)
        if response is not None:
            self._answer(user_id, post_id, response.liked)

    async def _ask(self, call: Call[Any], edges: Iterable[tuple[str, str]], timeout: float) -> Any:
        """The response, or None after its error went to all who asked about these edges."""
        try:
            return await self._send(call.method, call.request(), timeout)
        except LikeringError as error:
            for user_id, post_id in edges:
                fail_all(self.answers[post_id][user_id], error)
            return None

    def _answer(self, user_id: str, post_id: str, liked: bool) -> None:
        for answer in self.answers[post_id][user_id]:
            if not answer.done():
                answer.set_result(liked)


def fail_all(answers: Iterable[asyncio.Future[T]], error: LikeringError) -> None:
    """Fails those that have no answer yet, each with an exception of its own: a traceback belongs to one raise."""
    for answer in answers:
        if not answer.done():
            answer.set_exception(copy_of(error))


def copy_of(error: LikeringError) -> LikeringError:
    """The same error, to be raised somewhere else."""
    copy = type(error)(
        error.message, metadata=error.metadata, violations=error.violations, retry_after=error.retry_after
    )
    copy.request_id = error.request_id
    copy.__cause__ = error.__cause__
    return copy
