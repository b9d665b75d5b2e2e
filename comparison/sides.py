"""The sides that are compared, each measured for a moment at a time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
import psycopg

from comparison import clients
from comparison.figures import Sample
from comparison.stage import Stage
from likering.bench.choices import Keys
from likering.bench.load import Load, PacedSelector, run_load
from likering.bench.results import Written
from likering.bench.workload import Op, Source, Workload
from likering.v1 import like_service_pb2 as pb
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

Run = Callable[[], Awaitable[Sample]]

PACE = 0.002
"""Seconds: how often the client looks for answers, see likering.bench.load.run_paced."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure. Times are in seconds."""

    rounds: int
    seconds: float
    warmup: float
    processes: int = 1  # of the router, the echo and the peers each
    user_side: bool = False  # whether nodes keep the lists of what users like
    in_flight: int = 256  # unary calls
    mutates: int = 256  # MutateLikes in flight: 128,000 likes
    batch: int = 500
    pages: int = 256  # GetLikeSummaries in flight
    page: int = 100
    posts: int = 200_000  # that likes spread over
    read_posts: int = 20_000  # that reads spread over
    hot_likes: int = 20_000  # of the post whose count is read
    callers: int = 1000  # of the plain stub and of AsyncLikes
    mget_callers: int = 16


class Sides:
    """Measures sides on a stage, and remembers what each wrote."""

    def __init__(self, stage: Stage, settings: Settings, run_id: str, selector: PacedSelector) -> None:
        """``run_id``: four letters or digits; with two digits for the side they begin all ids that it writes."""
        self._stage = stage
        self._settings = settings
        self._run_id = run_id
        self._selector = selector
        self._next_user: defaultdict[str, int] = defaultdict(int)
        self.written: dict[str, Written] = {}
        """By side: everything acknowledged so far."""
        self.messages: Counter[str] = Counter()
        """What failed calls said, of all sides."""
        self.sides: Mapping[str, Run] = {
            "echo-like": lambda: self._likes("echo-like", "echo"),
            "like": lambda: self._likes("like", None),
            "transactions-like": lambda: self._likes("transactions-like", "transactions"),
            "statement-like": lambda: self._likes("statement-like", "statement"),
            "redis-like": lambda: self._likes("redis-like", "redis"),
            "count-star-like": lambda: self._likes("count-star-like", "count-star"),
            "like-hot": lambda: self._likes("like-hot", None, Keys.HOT),
            "transactions-like-hot": lambda: self._likes("transactions-like-hot", "transactions", Keys.HOT),
            "echo-count": lambda: self._counts("echo-count", "echo", Keys.SPREAD),
            "count": lambda: self._counts("count", None, Keys.SPREAD),
            "summaries": self._summaries,
            "mget": self._mget,
            "count-hot": lambda: self._counts("count-hot", None, Keys.HOT),
            "count-star-count-hot": lambda: self._counts("count-star-count-hot", "count-star", Keys.HOT),
            "mutate": lambda: self._mutates("mutate", Keys.SPREAD),
            "direct": self._direct,
            "mutate-hot": lambda: self._mutates("mutate-hot", Keys.HOT),
            "transactions-mutate": self._transactions_mutate,
            "stub-like": lambda: self._single_likes("stub-like", clients.stub_likes),
            "async-likes": lambda: self._single_likes("async-likes", clients.async_likes),
        }
        self._places = {name: place for place, name in enumerate([*self.sides, "reads", "hot"])}
        self.stores: Mapping[str, str] = {
            "like": "cluster",
            "like-hot": "cluster",
            "mutate": "cluster",
            "mutate-hot": "cluster",
            "stub-like": "cluster",
            "async-likes": "cluster",
            "reads": "cluster",
            "hot": "cluster",
            "direct": "direct",
            "transactions-like": "transactions",
            "transactions-like-hot": "transactions",
            "transactions-mutate": "transactions",
            "statement-like": "transactions",
            "redis-like": "redis",
            "count-star-like": "count-star",
        }
        """Where the writes of a side must be found. The echo's are nowhere."""

    def prefix(self, side: str) -> str:
        """What the ids of a side begin with."""
        return f"{self._run_id}{self._places[side]:02}"

    async def prepare(self) -> None:
        """Writes what the sides that read will ask for."""
        settings = self._settings
        reads = [Workload(self.prefix("reads")).post_id(index) for index in range(settings.read_posts)]
        await self._fill("reads", reads)
        hot = Workload(self.prefix("hot")).post_id(0)
        await self._fill("hot", [hot] * settings.hot_likes)
        with psycopg.connect(self._stage.count_star_dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO likes (post_id, user_id) SELECT %s, 'user' || n FROM generate_series(1, %s) AS n",
                (hot, settings.hot_likes),
            )
        await clients.fill_for_mget(self._stage.valkey.url, reads)
        await self._run_direct(0, 0)  # nothing is written: the writers look for the posts that they own

    async def _fill(self, side: str, posts: list[str]) -> None:
        written = self.written[side] = Written()
        workload = Workload(self.prefix(side))
        async with grpc.aio.insecure_channel(self._stage.cluster.address) as channel:
            stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))
            for start in range(0, len(posts), 1000):
                request = pb.MutateLikesRequest()
                for number, post in enumerate(posts[start : start + 1000], start):
                    request.mutations.add(
                        user_id=workload.user_id(0, number), post_id=post, action=pb.LikeMutation.ACTION_LIKE
                    )
                response = await stub.MutateLikes(request, timeout=60)
                written.likes += sum(
                    result.outcome == pb.MUTATION_OUTCOME_CHANGED for result in response.results
                )

    async def measure(self, side: str) -> Sample:
        """Measures a side once."""
        return await self.sides[side]()

    def _address(self, server: str | None) -> str:
        return self._stage.cluster.address if server is None else self._stage.servers[server].address

    async def _load(
        self, side: str, server: str | None, workload: Workload, in_flight: int, *, writes: bool
    ) -> Sample:
        meter = self._stage.meter(*([server] if server else []))
        self._selector.pace = PACE
        try:
            outcome = await run_load(
                Load(
                    address=self._address(server),
                    workload=workload,
                    seconds=self._settings.seconds,
                    warmup=self._settings.warmup,
                    in_flight=in_flight,
                    timeout=60,
                    first_user=self._next_user[side],
                    on_begin=meter.begin,
                    on_end=meter.end,
                )
            )
        finally:
            self._selector.pace = 0.0
        self._next_user[side] = outcome.next_user
        result = outcome.result
        self.messages.update(result.messages)
        if writes:
            self._wrote(side, result.written)
        operations = sum(part.items for part in result.ops.values())
        return Sample(operations, result.seconds, meter.seconds, errors=result.errors)

    def _wrote(self, side: str, written: Written) -> None:
        self.written.setdefault(side, Written()).add(written)

    async def _likes(self, side: str, server: str | None, keys: Keys = Keys.SPREAD) -> Sample:
        workload = Workload(self.prefix(side), keys=keys, posts=self._settings.posts)
        return await self._load(side, server, workload, self._settings.in_flight, writes=server != "echo")

    async def _counts(self, side: str, server: str | None, keys: Keys) -> Sample:
        prefix = self.prefix("hot" if keys is Keys.HOT else "reads")
        workload = Workload(prefix, {Op.COUNT: 1}, keys=keys, posts=self._settings.read_posts)
        return await self._load(side, server, workload, self._settings.in_flight, writes=False)

    async def _summaries(self) -> Sample:
        settings = self._settings
        workload = Workload(
            self.prefix("reads"), {Op.SUMMARIES: 1}, posts=settings.read_posts, page=settings.page
        )
        return await self._load("summaries", None, workload, settings.pages, writes=False)

    async def _mutates(self, side: str, keys: Keys) -> Sample:
        settings = self._settings
        workload = Workload(
            self.prefix(side), {Op.MUTATE: 1}, keys=keys, posts=settings.posts, batch=settings.batch
        )
        return await self._load(side, None, workload, settings.mutates, writes=True)

    async def _transactions_mutate(self) -> Sample:
        side, settings = "transactions-mutate", self._settings
        source = self._source(side)
        sample, written = await clients.mutate_waves(
            self._address("transactions"),
            source,
            settings.batch,
            self._stage.meter("transactions"),
            callers=2,
            seconds=settings.seconds,
        )
        self._next_user[side] = source.next_user
        self._wrote(side, written)
        return sample

    async def _single_likes(
        self, side: str, load: Callable[..., Coroutine[Any, Any, tuple[Sample, Written]]]
    ) -> Sample:
        source, settings = self._source(side), self._settings
        sample, written = await load(
            self._address(None),
            source,
            self._stage.meter(),
            callers=settings.callers,
            warmup=settings.warmup,
            seconds=settings.seconds,
            messages=self.messages,
        )
        self._next_user[side] = source.next_user
        self._wrote(side, written)
        return sample

    def _source(self, side: str) -> Source:
        workload = Workload(self.prefix(side), posts=self._settings.posts)
        return Source(workload, first_user=self._next_user[side])

    async def _mget(self) -> Sample:
        settings = self._settings
        return await clients.mget(
            self._stage.valkey.url,
            Source(Workload(self.prefix("reads"), posts=settings.read_posts)),
            self._stage.meter(),
            keys=settings.page,
            callers=settings.mget_callers,
            warmup=settings.warmup,
            seconds=settings.seconds,
        )

    async def _direct(self) -> Sample:
        meter = self._stage.meter()
        asyncio.get_running_loop().call_later(self._settings.warmup, meter.begin)
        results = await self._run_direct(self._settings.warmup, self._settings.seconds)
        meter.end()
        self._wrote("direct", Written(likes=int(sum(result["total"] for result in results))))
        likes = sum(result["likes"] for result in results)
        return Sample(int(likes), max(result["seconds"] for result in results), meter.seconds)

    async def _run_direct(self, warmup: float, seconds: float) -> list[dict[str, float]]:
        job = {
            "prefix": self.prefix("direct"),
            "posts": self._settings.posts,
            "batch": self._settings.batch,
            "warmup": warmup,
            "seconds": seconds,
        }
        return await asyncio.gather(*(writer.run(job) for writer in self._stage.direct))
