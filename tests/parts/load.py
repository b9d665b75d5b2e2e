"""Callers that like and unlike through the generated stubs and note every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import grpc.aio
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp

from likering.serving.status import from_rpc_error
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub
from tests.parts.history import Record, Stored
from tests.parts.stored import EDGES, POSTS
from tests.parts.until import until

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub


class Callers:
    """So many callers at once, each with users of its own and posts that all share. No call is tried again here."""

    def __init__(
        self, address: str, *, callers: int = 16, seed: int = 0, posts: int = 12, timeout: float = 5.0
    ) -> None:
        self.history: list[Record] = []
        self.failures: list[str] = []
        self.stale_reads: list[str] = []
        self._address = address
        self._callers = callers
        self.seed = seed
        self._prefix = f"{seed}-{time.time_ns()}"
        self._posts = [f"post-{self._prefix}-{n}" for n in range(posts)]
        self._timeout = timeout
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._channel: grpc.aio.Channel | None = None

    @property
    def acknowledged(self) -> int:
        """Calls that were answered."""
        return sum(1 for record in self.history if record.outcome is not None)

    @property
    def posts(self) -> Sequence[str]:
        """The posts of this load, which nobody else uses."""
        return self._posts

    async def __aenter__(self) -> Callers:
        self._channel = grpc.aio.insecure_channel(
            self._address,
            options=[
                ("grpc.max_reconnect_backoff_ms", 300),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),  # each call is one try: the checker counts on it
            ],
        )
        stub: LikeServiceAsyncStub = LikeServiceStub(self._channel)  # type: ignore[assignment]
        self._tasks = [asyncio.create_task(self._call(stub, number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Lets the calls under way end, and makes no more."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        if self._channel is not None:
            await self._channel.close()

    async def more(self, calls: int, seconds: float = 60.0) -> None:
        """Returns when so many more calls were acknowledged."""
        goal = self.acknowledged + calls
        await until(lambda: self.acknowledged >= goal, seconds)

    async def _call(self, stub: LikeServiceAsyncStub, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        liked: dict[tuple[str, str], bool | None] = {}
        while not self._stopping:
            post_id = chance.choice(self._posts)
            user_id = f"user-{number}-{chance.randrange(40)}"
            edge = (post_id, user_id)
            like = chance.random() < 0.65
            with_intent = chance.random() < 0.5
            try:
                await self._mutate(stub, edge, like=like, with_intent=with_intent)
                liked[edge] = like
                if chance.random() < 0.2:
                    has = await stub.HasLiked(
                        pb.HasLikedRequest(post_id=post_id, user_id=user_id), timeout=self._timeout
                    )
                    if has.liked != like:
                        self.stale_reads.append(f"{edge}: {has.liked} read after {like} was acknowledged")
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error)
                self.failures.append(f"{failure.reason}: {failure.message}")

    async def _mutate(
        self, stub: LikeServiceAsyncStub, edge: tuple[str, str], *, like: bool, with_intent: bool
    ) -> None:
        post_id, user_id = edge
        intent = Timestamp()
        intent.GetCurrentTime()
        request_class, method = (pb.LikeRequest, stub.Like) if like else (pb.UnlikeRequest, stub.Unlike)
        request = request_class(post_id=post_id, user_id=user_id, intent_time=intent if with_intent else None)
        try:
            response = await method(request, timeout=self._timeout)  # type: ignore[arg-type]
        except grpc.aio.AioRpcError:
            self.history.append(Record(edge, like, repeatable=with_intent))
            raise
        outcome = pb.MutationOutcome.Name(response.outcome).removeprefix("MUTATION_OUTCOME_")
        count = response.like_count
        self.history.append(Record(edge, like, outcome, count.version, count.count, with_intent))


async def stored_in(dsns: Sequence[str], posts: Collection[str]) -> Stored:
    """What the databases of the nodes hold about these posts."""
    stored = Stored()
    for dsn in dsns:
        async with await psycopg.AsyncConnection.connect(dsn, options="-csearch_path=likering") as connection:
            cursor = await connection.execute(
                f"SELECT post_id, user_id FROM {EDGES} WHERE liked AND post_id = ANY(%s)", [list(posts)]
            )
            stored.liked |= set(await cursor.fetchall())
            cursor = await connection.execute(
                f"SELECT post_id, version, like_count FROM {POSTS} WHERE post_id = ANY(%s)", [list(posts)]
            )
            for post_id, version, count in await cursor.fetchall():
                assert post_id not in stored.posts, f"{post_id} is on two nodes"
                stored.posts[post_id] = (version, count)
    return stored
