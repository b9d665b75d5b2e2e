"""Which calls a load consists of: the mix of operations, the distribution of posts, the requests themselves.

Each run has a prefix of its own for all its ids, so that what it wrote can be told from everything else in the
databases. Every like is of an edge that was never liked before; unlikes and checks go to edges of the same run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from random import Random

from likering.bench.choices import Keys
from likering.v1 import like_service_pb2 as pb

PREFIX_LENGTH = 6


class Op(StrEnum):
    """A kind of call."""

    LIKE = "like"
    UNLIKE = "unlike"
    HAS_LIKED = "has-liked"
    COUNT = "count"
    MUTATE = "mutate"
    SUMMARIES = "summaries"


WRITES = frozenset({Op.LIKE, Op.UNLIKE, Op.MUTATE})

METHODS: Mapping[Op, str] = {
    Op.LIKE: "/likering.v1.LikeService/Like",
    Op.UNLIKE: "/likering.v1.LikeService/Unlike",
    Op.HAS_LIKED: "/likering.v1.LikeService/HasLiked",
    Op.COUNT: "/likering.v1.LikeService/GetLikeCount",
    Op.MUTATE: "/likering.v1.LikeService/MutateLikes",
    Op.SUMMARIES: "/likering.v1.LikeService/GetLikeSummaries",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What to call. ``mix`` gives each operation's share; shares need not add up to 1."""

    prefix: str
    mix: Mapping[Op, float] = field(default_factory=lambda: {Op.LIKE: 1.0})
    keys: Keys = Keys.SPREAD
    posts: int = 200_000
    exponent: float = 1.1  # of the zipf distribution
    batch: int = 500  # mutations a MutateLikes
    page: int = 100  # posts a GetLikeSummaries
    seed: int = 1

    def __post_init__(self) -> None:
        if len(self.prefix) != PREFIX_LENGTH or not self.prefix.isalnum() or not self.prefix.isascii():
            raise ValueError(f"the prefix must be {PREFIX_LENGTH} letters and digits")
        if not self.mix or any(share < 0 for share in self.mix.values()) or not sum(self.mix.values()) > 0:
            raise ValueError("the mix needs at least one operation with a share above 0")
        if self.posts < 1:
            raise ValueError("there must be at least one post")

    def post_id(self, index: int) -> str:
        """The id of the post of that index: 19 characters, as long as a snowflake id."""
        return f"{self.prefix}p{index:012}"

    def user_id(self, part: int, number: int) -> str:
        """The id of a user: 19 characters. Each process (``part``) has users of its own."""
        return f"{self.prefix}{part:02}{number:011}"


def parse_mix(text: str) -> dict[Op, float]:
    """``like=1,count=9`` as shares. Raises ValueError with a sentence."""
    mix: dict[Op, float] = {}
    for item in text.split(","):
        name, _, share = item.strip().partition("=")
        try:
            mix[Op(name)] = float(share) if share else 1.0
        except ValueError:
            known = ", ".join(op.value for op in Op)
            raise ValueError(
                f"{item.strip()!r} is not OPERATION=SHARE with an operation of {known}"
            ) from None
    return mix


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make; ``items`` is the number of likes or posts in it."""

    op: Op
    request: bytes
    items: int


class Source:
    """Makes the calls of a workload, one after the other, without end. Deterministic for a seed and part."""

    _CHUNK = 4096

    def __init__(self, workload: Workload, *, part: int = 0, first_user: int = 0) -> None:
        """``part`` tells the processes of one run apart; ``first_user`` continues where an earlier source ended."""
        self._workload = workload
        self._part = part
        self._random = Random(f"{workload.seed}/{part}/{first_user}")
        self.next_user = first_user
        self._range = range(workload.posts)
        self._cumulated: list[float] | None = None
        if workload.keys is Keys.ZIPF:
            shares = (1.0 / (rank + 1) ** workload.exponent for rank in self._range)
            self._cumulated = list(accumulate(shares))
        self._posts: list[int] = []
        self._ops: list[Op] = []
        self._recent: deque[tuple[str, str]] = deque(maxlen=10_000)
        self._makers: Mapping[Op, Callable[[], Call]] = {
            Op.LIKE: self._like,
            Op.UNLIKE: self._unlike,
            Op.HAS_LIKED: self._has_liked,
            Op.COUNT: self._count,
            Op.MUTATE: self._mutate,
            Op.SUMMARIES: self._summaries,
        }
        self._only = next(iter(workload.mix)) if len(workload.mix) == 1 else None
        self._remembers = bool({Op.UNLIKE, Op.HAS_LIKED} & workload.mix.keys())

    def next(self) -> Call:
        """The next call."""
        if self._only is not None:
            return self._makers[self._only]()
        if not self._ops:
            mix = self._workload.mix
            self._ops = self._random.choices(list(mix), weights=list(mix.values()), k=self._CHUNK)
        return self._makers[self._ops.pop()]()

    def post(self) -> str:
        """A post of the distribution."""
        if self._workload.keys is Keys.HOT:
            return self._workload.post_id(0)
        if not self._posts:
            self._posts = self._random.choices(self._range, cum_weights=self._cumulated, k=self._CHUNK)
        return self._workload.post_id(self._posts.pop())

    def edge(self) -> tuple[str, str]:
        """A user and a post that the user never liked."""
        edge = (self._workload.user_id(self._part, self.next_user), self.post())
        self.next_user += 1
        if self._remembers:
            self._recent.append(edge)
        return edge

    def _earlier_edge(self) -> tuple[str, str]:
        if not self._recent:
            return (self._workload.user_id(self._part, 0), self.post())
        return self._recent[self._random.randrange(len(self._recent))]

    def _like(self) -> Call:
        user, post = self.edge()
        return Call(Op.LIKE, pb.LikeRequest(user_id=user, post_id=post).SerializeToString(), 1)

    def _unlike(self) -> Call:
        user, post = self._earlier_edge()
        return Call(Op.UNLIKE, pb.UnlikeRequest(user_id=user, post_id=post).SerializeToString(), 1)

    def _has_liked(self) -> Call:
        user, post = self._earlier_edge()
        return Call(Op.HAS_LIKED, pb.HasLikedRequest(user_id=user, post_id=post).SerializeToString(), 1)

    def _count(self) -> Call:
        return Call(Op.COUNT, pb.GetLikeCountRequest(post_id=self.post()).SerializeToString(), 1)

    def _mutate(self) -> Call:
        request = pb.MutateLikesRequest()
        add = request.mutations.add
        for _ in range(self._workload.batch):
            user, post = self.edge()
            add(user_id=user, post_id=post, action=pb.LikeMutation.ACTION_LIKE)
        return Call(Op.MUTATE, request.SerializeToString(), self._workload.batch)

    def _summaries(self) -> Call:
        posts = [self.post() for _ in range(self._workload.page)]
        return Call(Op.SUMMARIES, pb.GetLikeSummariesRequest(post_ids=posts).SerializeToString(), len(posts))
