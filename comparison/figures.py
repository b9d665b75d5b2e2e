"""The figures that the comparison is about: ratios of two sides of one run, and what they must reach. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """One side, measured once."""

    operations: int
    seconds: float
    cpu: Mapping[str, float] = field(default_factory=dict)  # group -> CPU seconds
    errors: int = 0

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    def cpu_us(self, *groups: str) -> float:
        """CPU of these groups in µs per operation; 0 when there was no operation."""
        if not self.operations:
            return 0.0
        return sum(self.cpu.get(group, 0.0) for group in groups) / self.operations * 1e6


@dataclass(frozen=True, slots=True)
class Figure:
    """A ratio to show. ``of(left, right)`` computes it from the two sides of one round, None if one did nothing."""

    key: str
    what: str
    left: str
    right: str
    of: Callable[[Sample, Sample], float | None]
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None


def _ratio(left: float, right: float) -> float | None:
    return left / right if left and right else None


def _rates(left: Sample, right: Sample) -> float | None:
    return _ratio(left.rate, right.rate)


def _cpu(left: Sample, right: Sample) -> float | None:
    return _ratio(left.cpu_us("router", "nodes"), right.cpu_us("server"))


FIGURES: Sequence[Figure] = (
    Figure("like/echo", "unary durable Like ÷ bare grpcio echo, calls/s",
           "like", "echo-like", _rates, at_least=0.65, aim=0.80),
    Figure("like/echo cpu", "(router + node CPU per Like) ÷ (echo CPU per call)",
           "like", "echo-like", _cpu, at_most=1.5, aim=1.25),
    Figure("count/echo", "GetLikeCount CACHED ÷ echo, calls/s",
           "count", "echo-count", _rates, at_least=0.75),
    Figure("mutate/direct", "MutateLikes (500 a call) ÷ the same statements straight through psycopg, likes/s",
           "mutate", "direct", _rates, at_least=0.70),
    Figure("hot/spread", "MutateLikes: likes on one hot post ÷ likes spread over 200,000 posts",
           "mutate-hot", "mutate", _rates, at_least=1.2),
    Figure("like/transactions", "unary Like ÷ a transaction per like, spread",
           "like", "transactions-like", _rates, at_least=2.5),
    Figure("like-hot/transactions", "unary Like ÷ a transaction per like, one hot post",
           "like-hot", "transactions-like-hot", _rates, at_least=3.0),
    Figure("mutate/transactions", "MutateLikes ÷ a transaction per like, spread, likes/s",
           "mutate", "transactions-mutate", _rates, at_least=10.0),
    Figure("async/stub", "AsyncLikes ÷ plain unary stub, 1,000 callers in flight, likes/s",
           "async-likes", "stub-like", _rates, at_least=8.0),
    Figure("summaries/count", "GetLikeSummaries, posts/s of 100-post pages ÷ unary GetLikeCount, calls/s",
           "summaries", "count", _rates, at_least=20.0),
    Figure("like/statement", "unary Like ÷ like and counter row in one statement, spread",
           "like", "statement-like", _rates),
    Figure("like/redis", "unary Like ÷ Redis sets (not durable: AOF each second)", "like", "redis-like", _rates),
    Figure("like/count-star", "unary Like ÷ one Postgres with count(*), spread", "like", "count-star-like", _rates),
    Figure("count-hot/count-star", "GetLikeCount ÷ count(*), one post with 20,000 likes",
           "count-hot", "count-star-count-hot", _rates),
    Figure("summaries/mget", "GetLikeSummaries, posts/s ÷ redis-py MGET of 100 keys, keys/s",
           "summaries", "mget", _rates),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure's value: the median of the rounds, and each round's."""

    figure: Figure
    value: float
    rounds: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """``reached``, ``missed``, ``aim reached``, or nothing when there is nothing to reach."""
        figure = self.figure
        if figure.at_least is None and figure.at_most is None:
            return ""
        reached = (figure.at_least is None or self.value >= figure.at_least) and (
            figure.at_most is None or self.value <= figure.at_most
        )
        if not reached:
            return "missed"
        if figure.aim is None:
            return "reached"
        at_aim = self.value >= figure.aim if figure.at_least is not None else self.value <= figure.aim
        return "aim reached" if at_aim else "reached"

    @property
    def goal(self) -> str:
        """The goal in words."""
        figure = self.figure
        if figure.at_least is not None:
            text = f"≥ {figure.at_least:g}"
        elif figure.at_most is not None:
            text = f"≤ {figure.at_most:g}"
        else:
            return ""
        return f"{text} (aim {figure.aim:g})" if figure.aim is not None else text


def measured(samples: Mapping[str, Sequence[Sample]]) -> list[Measured]:
    """All figures whose both sides were measured.

    Each round gives a ratio of two measurements made close to each other; the median of the rounds is the value, so
    that neither the drift of a noisy machine nor one bad round decides it.
    """
    result = []
    for figure in FIGURES:
        left, right = samples.get(figure.left, ()), samples.get(figure.right, ())
        pairs = (figure.of(one, other) for one, other in zip(left, right, strict=False))
        ratios = tuple(ratio for ratio in pairs if ratio is not None)
        if ratios:
            result.append(Measured(figure, median(ratios), ratios))
    return result


def others_share(samples: Mapping[str, Sequence[Sample]], cpus: int) -> float:
    """The part of the machine, 0 to 1, that programs which are not compared took meanwhile: the median of all samples.

    A few percent are the kernel's own. With more, the figures are those of a machine that somebody else used too.
    """
    shares = [
        sample.cpu["others"] / sample.seconds / cpus
        for taken in samples.values()
        for sample in taken
        if "others" in sample.cpu
    ]
    return max(0.0, median(shares)) if shares else 0.0


def typical(samples: Sequence[Sample]) -> Sample:
    """The sample of the median rate (of an even number the lower one)."""
    return sorted(samples, key=lambda sample: sample.rate)[(len(samples) - 1) // 2]
