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
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message

from likering.client.calls import Call, Filter, GetCount, GetState, GetSummaries
from likering.errors import DeadlineExceeded, InternalError, InvalidArgument, LikeringError, ShardUnavailable
from likering.v1 import like_service_pb2 as pb
from likering.validation import MAX_POSTS, like_violations, valid_ids

T = TypeVar("T")

_SERVER_DECIDES: Final = 2**63
"""As the present moment: whether an intent is too far ahead is for the server's clock to say."""

_SINGLE_READS: Final = 64
"""So many reads that have nothing in common travel at a time: a thousand at once are more than a router takes in."""


class Send(Protocol):
    """Sends one request and gives its response: method, request, seconds."""

    def __call__(self, method: str, request: Message, timeout: float, /) -> Awaitable[Any]: ...


class WriteBatch:
    """Likes and unlikes, as one MutateLikes. In columns: an object per write would be one more for the garbage
    collector to look at, a thousand times."""

    __slots__ = ("_send", "actions", "answers", "intents", "post_ids", "user_ids")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.user_ids: list[str] = []
        self.post_ids: list[str] = []
        self.actions: list[int] = []
        self.intents: list[int] = []
        """µs since 1970."""
        self.answers: list[asyncio.Future[pb.MutationResult]] = []

    def fail(self, error: LikeringError) -> None:
        fail_all(self.answers, error)

    async def send(self, timeout: float) -> None:
        self._leave_out()
        if not self.answers:
            return
        try:
            response = await self._send("MutateLikes", self._request(), timeout)
        except LikeringError as error:
            self.fail(error)
            return
        if len(response.results) != len(self.answers):
            self.fail(InternalError(f"{len(self.answers)} mutations got {len(response.results)} results"))
            return
        for answer, result in zip(self.answers, response.results, strict=True):
            if not answer.done():
                answer.set_result(result)

    def _leave_out(self) -> None:
        """Answers what the server would refuse, and drops what nobody waits for any more."""
        try:
            if (
                valid_ids(self.user_ids)
                and valid_ids(self.post_ids)
                and min(self.intents) >= 0
                and not any(answer.done() for answer in self.answers)
            ):
                return
        except TypeError:  # an id that is no string: its caller's fault, see below
            pass
        writes = list(
            zip(self.user_ids, self.post_ids, self.actions, self.intents, self.answers, strict=True)
        )
        for column in (self.user_ids, self.post_ids, self.actions, self.intents, self.answers):
            column.clear()
        for user_id, post_id, action, intent, answer in writes:
            if answer.done():
                continue
            try:
                violations = like_violations(user_id, post_id, intent, _SERVER_DECIDES)
            except TypeError as error:
                answer.set_exception(error)
                continue
            if violations:
                answer.set_exception(InvalidArgument.of(violations))
            else:
                self.user_ids.append(user_id)
                self.post_ids.append(post_id)
                self.actions.append(action)
                self.intents.append(intent)
                self.answers.append(answer)

    def _request(self) -> pb.MutateLikesRequest:
        # As add_mutation does it, without a thousand calls.
        request = pb.MutateLikesRequest()
        add = request.mutations.add
        for user_id, post_id, action, intent in zip(
            self.user_ids, self.post_ids, self.actions, self.intents, strict=True
        ):
            mutation = add()
            mutation.user_id = user_id
            mutation.post_id = post_id
            mutation.action = action  # type: ignore[assignment]  # known, and a call to say so costs as much again
            time = mutation.intent_time
            time.seconds, rest = divmod(intent, 1_000_000)
            time.nanos = rest * 1000
        return request


class CountBatch:
    """Counts of posts, as one GetLikeSummaries. Whoever asks for the same post shares its place."""

    __slots__ = ("_consistency", "_send", "answers")

    def __init__(self, send: Send, consistency: int) -> None:
        self._send = send
        self._consistency = consistency
        self.answers: defaultdict[str, list[asyncio.Future[pb.LikeCount]]] = defaultdict(list)

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

    __slots__ = ("_consistency", "_deadline", "_few", "_loop", "_send", "answers", "size")

    def __init__(self, send: Send, consistency: int) -> None:
        self._send = send
        self._consistency = consistency
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._few = asyncio.Semaphore(_SINGLE_READS)
        self.size = 0
        self.answers: defaultdict[str, defaultdict[str, list[asyncio.Future[bool]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """Post → user → who asked."""

    def fail(self, error: LikeringError) -> None:
        for users in self.answers.values():
            for answers in users.values():
                fail_all(answers, error)

    async def send(self, timeout: float) -> None:
        self._deadline = self._loop.time() + timeout
        await asyncio.gather(*self._questions())

    def _questions(self) -> Iterator[Awaitable[None]]:
        alone: defaultdict[str, list[str]] = defaultdict(list)
        for post_id, users in self.answers.items():
            if len(users) > 1:
                yield self._ask_about_post(post_id)
            else:
                (user_id,) = users
                alone[user_id].append(post_id)
        for user_id, post_ids in alone.items():
            posts = iter(post_ids)
            while page := tuple(islice(posts, MAX_POSTS)):
                if len(page) > 1:
                    yield self._ask_about_user(user_id, page)
                else:
                    yield self._ask_about_edge(user_id, page[0])

    async def _ask_about_post(self, post_id: str) -> None:
        users = self.answers[post_id]
        call = Filter(post_id, tuple(users), self._consistency, 0)
        response = await self._ask(call, [(user_id, post_id) for user_id in users])
        if response is not None:
            likers = frozenset(response.liked_user_ids)
            for user_id in users:
                self._answer(user_id, post_id, user_id in likers)

    async def _ask_about_user(self, user_id: str, post_ids: tuple[str, ...]) -> None:
        # Partial: one shard that is away fails only the questions that it should have answered.
        call = GetSummaries(post_ids, user_id, self._consistency, partial=True)
        response = await self._ask(call, [(user_id, post_id) for post_id in post_ids])
        if response is not None:
            for summary in response.summaries:
                self._answer(user_id, summary.like_count.post_id, summary.viewer_has_liked)
            for post_id in response.unreachable:
                fail_all(self.answers[post_id][user_id], ShardUnavailable())

    async def _ask_about_edge(self, user_id: str, post_id: str) -> None:
        call = GetState(user_id, post_id, self._consistency, 0)
        async with self._few:
            response = await self._ask(call, [(user_id, post_id)])
        if response is not None:
            self._answer(user_id, post_id, response.liked)

    async def _ask(self, call: Call[Any], edges: Iterable[tuple[str, str]]) -> Any:
        """The response, or None after its error went to all who asked about these edges."""
        try:
            remaining = self._deadline - self._loop.time()
            if remaining <= 0:
                raise DeadlineExceeded("The deadline passed before the call could be sent")
            return await self._send(call.method, call.request(), remaining)
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
