"""Callers that like, unlike and read all the time, and note every answer with its times."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import grpc.aio

from likering import AsyncLikes
from likering.client.calls import add_mutation, timestamp
from likering.client.model import Action, Consistency, Mutation, Outcome
from likering.client.retry import RetryPolicy
from likering.errors import LikeringError
from likering.serving.status import from_rpc_error, from_status
from likering.v1 import like_service_pb2 as pb
from tests.parts.records import Change, CountSeen, Edge, History, LikeSeen, now_us
from tests.parts.stubs import like_stub
from tests.parts.until import until

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

ONE_TRY: Final = RetryPolicy(tokens=0)
CALLS: Final[Mapping[str, float]] = {
    "own": 40,
    "shared": 14,
    "hot": 8,
    "late": 3,
    "twice at once": 4,
    "twice": 3,
    "has liked": 12,
    "count": 12,
    "page": 4,
}
"""How often each kind of call is made, in proportion."""
BULK: Final[Mapping[str, float]] = {**CALLS, "batch": 0.8, "burst": 1.2}
"""And now and then a thousand mutations in one call, and a burst of single calls that travel together."""
BATCH: Final = 1000
BURST: Final = 300
PAGE: Final = 10
_OWN_USERS: Final = 8
_SHARED_USERS: Final = 25
_LATE_US: Final = 3_000_000


class Callers:
    """So many callers at once. Each has users of its own, shares others, and all use the same posts, one much.

    No call is tried again here. ``rate`` bounds the calls of all callers together in a second, and ``most`` their
    number; 0 is no bound. With several ``connections`` they may come to several processes of the router.
    """

    def __init__(
        self,
        address: str,
        *,
        callers: int = 16,
        seed: int | str = 0,
        posts: int = 12,
        timeout: float = 5.0,
        rate: float = 0.0,
        most: int = 0,
        connections: int = 1,
        calls: Mapping[str, float] = CALLS,
    ) -> None:
        self.history = History()
        self.seed = seed
        self.slowest = 0.0
        """Seconds of the call that took longest."""
        self._address = address
        self._callers = callers
        self._prefix = f"{seed}-{time.time_ns()}"
        self._posts = [f"post-{self._prefix}-{n}" for n in range(posts)]
        self._timeout = timeout
        self._rate = rate
        self._most = most
        self._connections = connections
        self._kinds = list(calls)
        self._weights = list(calls.values())
        self._made = 0
        self._numbers = itertools.count(1)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> int:
        """Calls that were answered; of lists each item."""
        return len(self.history) - self._unanswered

    @property
    def posts(self) -> Sequence[str]:
        """The posts of this load, which nobody else uses."""
        return self._posts

    async def __aenter__(self) -> Callers:
        self._unanswered = 0
        self._channels = [
            grpc.aio.insecure_channel(
                self._address,
                options=[
                    ("grpc.max_reconnect_backoff_ms", 300),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.enable_retries", 0),  # each call is one try: the oracle counts on it
                    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
                ],
            )
            for _ in range(self._connections)
        ]
        self._stubs = [like_stub(channel) for channel in self._channels]
        self._likes = AsyncLikes(self._address, timeout=self._timeout, retry=ONE_TRY)
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Lets the calls under way end, and makes no more."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._likes.close()
        for channel in self._channels:
            await channel.close()

    async def more(self, calls: int, seconds: float = 60.0) -> None:
        """Returns when so many more calls were acknowledged."""
        goal = self.acknowledged + calls
        await until(lambda: self.acknowledged >= goal, seconds)

    async def _call(self, number: int) -> None:
        caller = _Caller(self, number, random.Random(f"{self.seed}/{number}"))
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "own": caller.own,
            "shared": caller.shared,
            "hot": caller.hot,
            "late": caller.late,
            "twice at once": caller.twice_at_once,
            "twice": caller.twice,
            "has liked": caller.has_liked,
            "count": caller.count,
            "page": caller.page,
            "batch": caller.batch,
            "burst": caller.burst,
        }
        due = time.monotonic()
        while not self._stopping and (not self._most or self._made < self._most):
            if self._rate:
                due = max(due + self._callers / self._rate, time.monotonic() - 1.0)
                await asyncio.sleep(due - time.monotonic())
            self._made += 1
            (kind,) = caller.chance.choices(self._kinds, self._weights)
            try:
                await calls[kind]()
            except grpc.aio.AioRpcError as error:
                self.failed(from_rpc_error(error))
            except LikeringError as error:
                self.failed(error)

    # What callers need

    def stub(self, caller: int) -> LikeServiceAsyncStub:
        return self._stubs[caller % len(self._stubs)]

    @property
    def likes(self) -> AsyncLikes:
        return self._likes

    @property
    def timeout(self) -> float:
        return self._timeout

    def next_number(self) -> int:
        """A number for a call that has several items."""
        return next(self._numbers)

    def failed(self, error: LikeringError) -> None:
        """Notes why a call failed, and when: the logs of the cluster say what happened then."""
        now = datetime.now(UTC)
        self.history.failures.append(f"{error.reason}: {error.message} ({now:%H:%M:%S.%f})")

    def noted(self, change: Change) -> None:
        """Notes a like or unlike."""
        self.history.changes.append(change)
        if change.end is None:
            self._unanswered += 1
        else:
            self.slowest = max(self.slowest, (change.end - change.begin) / 1e6)


class _Caller:
    """One caller; each method is a call, or a few that belong together. They raise what the call raises."""

    def __init__(self, load: Callers, number: int, chance: random.Random) -> None:
        self.chance = chance
        self._load = load
        self._stub = load.stub(number)
        self._number = number

    # Likes and unlikes

    async def own(self) -> None:
        """An edge that nobody else uses."""
        await self._change(self._edge(self._own_user()), intent=self._now_or_none())

    async def shared(self) -> None:
        """An edge that others may use at the same time."""
        await self._change(self._edge(self._shared_user()), intent=self._now_or_none())

    async def hot(self) -> None:
        """The post that everybody likes."""
        user = self._own_user() if self.chance.random() < 0.7 else self._shared_user()
        await self._change((self._load.posts[0], user), intent=self._now_or_none())

    async def late(self) -> None:
        """What a user meant a while ago arrives now."""
        await self._change(self._edge(self._shared_user()), intent=now_us() - self.chance.randrange(_LATE_US))

    async def twice_at_once(self) -> None:
        """The same request two times over, as when a proxy sends it again."""
        edge, like, intent = self._edge(self._shared_user()), self._wants_like(), now_us()
        results = await asyncio.gather(
            *(self._change(edge, like=like, intent=intent) for _ in range(2)), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result

    async def twice(self) -> None:
        """The same request again after its answer, as when the answer got lost."""
        edge, like, intent = self._edge(self._own_user()), self._wants_like(), now_us()
        await self._change(edge, like=like, intent=intent)
        await self._change(edge, like=like, intent=intent)

    async def batch(self) -> None:
        """A list of mutations, some of the same edge."""
        call, mutations = self._load.next_number(), []
        request = pb.MutateLikesRequest()
        for _ in range(BATCH):
            user = self._own_user() if self.chance.random() < 0.8 else self._shared_user()
            edge, like, intent = self._edge(user), self._wants_like(), self._now_or_none()
            mutations.append((edge, like, intent))
            add_mutation(request, edge[1], edge[0], Action.LIKE if like else Action.UNLIKE, intent)
            if not intent:
                request.mutations[-1].ClearField("intent_time")
        begin = now_us()
        try:
            response = await self._stub.MutateLikes(request, timeout=self._load.timeout)
        except grpc.aio.AioRpcError:
            for index, (edge, like, intent) in enumerate(mutations):
                self._load.noted(
                    Change(self._number, begin, None, edge, like, intent, call=call, index=index)
                )
            raise
        end = now_us()
        for index, ((edge, like, intent), result) in enumerate(zip(mutations, response.results, strict=True)):
            error = from_status(result.status) if not result.outcome else None
            if error is not None:
                self._load.failed(error)
                change = Change(self._number, begin, None, edge, like, intent, call=call, index=index)
            else:
                count = result.like_count
                outcome = Outcome(result.outcome)
                change = Change(
                    self._number,
                    begin,
                    end,
                    edge,
                    like,
                    intent,
                    outcome,
                    count.version,
                    count.count,
                    call,
                    index,
                )
            self._load.noted(change)

    async def burst(self) -> None:
        """Many single calls at once, through the client that sends them together."""
        results = await asyncio.gather(*(self._apply() for _ in range(BURST)), return_exceptions=True)
        for result in results:
            if isinstance(result, LikeringError):
                self._load.failed(result)
            elif result is not None:
                raise result

    async def _apply(self) -> None:
        edge, like, intent = self._edge(self._own_user()), self._wants_like(), now_us()
        begin = now_us()
        mutation = Mutation(edge[1], edge[0], Action.LIKE if like else Action.UNLIKE, intent)
        try:
            result = await self._load.likes.apply(mutation)
        except LikeringError:
            self._load.noted(Change(self._number, begin, None, edge, like, intent))
            raise
        end = now_us()
        assert result.outcome is not None
        assert result.like_count is not None
        count = result.like_count
        self._load.noted(
            Change(self._number, begin, end, edge, like, intent, result.outcome, count.version, count.count)
        )

    async def _change(self, edge: Edge, *, intent: int, like: bool | None = None) -> None:
        post_id, user_id = edge
        like = self._wants_like() if like is None else like
        intent_time = timestamp(intent) if intent else None
        stub, timeout = self._stub, self._load.timeout
        begin = now_us()
        try:
            response: pb.LikeResponse | pb.UnlikeResponse
            if like:
                response = await stub.Like(
                    pb.LikeRequest(post_id=post_id, user_id=user_id, intent_time=intent_time), timeout=timeout
                )
            else:
                response = await stub.Unlike(
                    pb.UnlikeRequest(post_id=post_id, user_id=user_id, intent_time=intent_time),
                    timeout=timeout,
                )
        except grpc.aio.AioRpcError:
            self._load.noted(Change(self._number, begin, None, edge, like, intent))
            raise
        end = now_us()
        count, outcome = response.like_count, Outcome(response.outcome)
        self._load.noted(
            Change(self._number, begin, end, edge, like, intent, outcome, count.version, count.count)
        )

    # Reads

    async def has_liked(self) -> None:
        """Whether an edge is liked."""
        post_id, user_id = edge = self._edge(
            self._own_user() if self.chance.random() < 0.5 else self._shared_user()
        )
        consistency = self._consistency()
        request = pb.HasLikedRequest(post_id=post_id, user_id=user_id, consistency=_WIRE[consistency])
        begin = now_us()
        response = await self._stub.HasLiked(request, timeout=self._load.timeout)
        self._saw_like(begin, edge, response.liked, consistency)

    async def count(self) -> None:
        """How many like a post."""
        post_id, consistency = self._post(), self._consistency()
        request = pb.GetLikeCountRequest(post_id=post_id, consistency=_WIRE[consistency])
        begin = now_us()
        response = await self._stub.GetLikeCount(request, timeout=self._load.timeout)
        self._saw_count(begin, response.like_count, consistency)

    async def page(self) -> None:
        """The counts of some posts, and which of them somebody likes."""
        post_ids = self.chance.sample(self._load.posts, min(PAGE, len(self._load.posts)))
        viewer, consistency = self._shared_user(), self._consistency()
        request = pb.GetLikeSummariesRequest(
            post_ids=post_ids, viewer_user_id=viewer, consistency=_WIRE[consistency]
        )
        begin = now_us()
        response = await self._stub.GetLikeSummaries(request, timeout=self._load.timeout)
        for post_id, summary in zip(post_ids, response.summaries, strict=True):
            self._saw_count(begin, summary.like_count, consistency)
            self._saw_like(begin, (post_id, viewer), summary.viewer_has_liked, consistency)

    def _saw_like(self, begin: int, edge: Edge, liked: bool, consistency: Consistency) -> None:
        strong = consistency is Consistency.STRONG
        self._load.history.likes_seen.append(LikeSeen(self._number, begin, now_us(), edge, liked, strong))

    def _saw_count(self, begin: int, count: pb.LikeCount, consistency: Consistency) -> None:
        strong = consistency is Consistency.STRONG
        self._load.history.counts_seen.append(
            CountSeen(self._number, begin, now_us(), count.post_id, count.version, count.count, strong)
        )

    # Choices

    def _edge(self, user_id: str) -> Edge:
        return (self._post(), user_id)

    def _post(self) -> str:
        return self.chance.choice(self._load.posts)

    def _own_user(self) -> str:
        return f"user-{self._number}-{self.chance.randrange(_OWN_USERS)}"

    def _shared_user(self) -> str:
        return f"user-{self.chance.randrange(_SHARED_USERS)}"

    def _wants_like(self) -> bool:
        return self.chance.random() < 0.62

    def _now_or_none(self) -> int:
        return now_us() if self.chance.random() < 0.5 else 0

    def _consistency(self) -> Consistency:
        return Consistency.STRONG if self.chance.random() < 0.4 else Consistency.CACHED


_WIRE: Final[Mapping[Consistency, pb.Consistency.ValueType]] = {
    consistency: pb.Consistency.ValueType(int(consistency)) for consistency in Consistency
}
