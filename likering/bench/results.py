"""What a load did: calls, status codes, changes and latencies per operation; mergeable, and JSON in both directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from likering.bench.histogram import PERCENTILES, Histogram
from likering.bench.workload import Op


@dataclass(slots=True)
class OpResult:
    """One kind of call, within the measured time."""

    codes: Counter[str] = field(default_factory=Counter)  # gRPC status code -> calls
    items: int = 0  # likes or posts in the calls that succeeded
    latency: Histogram = field(default_factory=Histogram)  # µs from the intended send time, all codes

    @property
    def calls(self) -> int:
        """Calls that ended, in whatever way."""
        return self.codes.total()

    @property
    def errors(self) -> int:
        """Calls that did not succeed."""
        return self.calls - self.codes["OK"]


@dataclass(slots=True)
class Written:
    """What a load wrote from its first call to its last, warm-up included: to be found in the databases."""

    likes: int = 0  # acknowledged as CHANGED
    unlikes: int = 0  # acknowledged as CHANGED
    refused: int = 0  # mutations of a successful MutateLikes that failed by themselves
    uncertain: int = 0  # mutations of calls whose outcome is not known

    def add(self, other: Written) -> None:
        """Counts what the other wrote too."""
        self.likes += other.likes
        self.unlikes += other.unlikes
        self.refused += other.refused
        self.uncertain += other.uncertain


@dataclass(slots=True)
class Second:
    """One second of the measured time."""

    calls: int = 0
    errors: int = 0
    p50: int = 0  # µs
    p99: int = 0  # µs


@dataclass(slots=True)
class LoadResult:
    """A whole load."""

    seconds: float
    ops: dict[Op, OpResult] = field(default_factory=dict)
    written: Written = field(default_factory=Written)
    send_lag: Histogram = field(default_factory=Histogram)  # µs between intended and actual sending
    timeline: list[Second] = field(default_factory=list)
    client_cpu_seconds: float = 0.0
    messages: Counter[str] = field(default_factory=Counter)  # "CODE: message" -> calls, the first few kinds

    @property
    def calls(self) -> int:
        """All calls of the measured time."""
        return sum(op.calls for op in self.ops.values())

    @property
    def errors(self) -> int:
        """All calls that did not succeed."""
        return sum(op.errors for op in self.ops.values())

    @property
    def items_per_second(self) -> float:
        """Likes or posts a second, of successful calls."""
        return sum(op.items for op in self.ops.values()) / self.seconds

    @property
    def calls_per_second(self) -> float:
        """Successful calls a second."""
        return (self.calls - self.errors) / self.seconds


def merged(results: Sequence[LoadResult]) -> LoadResult:
    """What several processes did side by side in the same time, as one."""
    total = LoadResult(seconds=max(result.seconds for result in results))
    names: list[Op] = []
    for result in results:
        names += [op for op in result.ops if op not in names]
        total.written.add(result.written)
        total.client_cpu_seconds += result.client_cpu_seconds
        total.messages += result.messages
    for op in names:
        parts = [result.ops[op] for result in results if op in result.ops]
        total.ops[op] = OpResult(
            codes=sum((part.codes for part in parts), Counter()),
            items=sum(part.items for part in parts),
            latency=Histogram.merged(part.latency for part in parts),
        )
    total.send_lag = Histogram.merged(result.send_lag for result in results)
    for at in range(max(len(result.timeline) for result in results)):
        seconds = [result.timeline[at] for result in results if at < len(result.timeline)]
        total.timeline.append(
            Second(
                calls=sum(second.calls for second in seconds),
                errors=sum(second.errors for second in seconds),
                # Percentiles do not add up; the slowest process's is the honest one for a plot.
                p50=max(second.p50 for second in seconds),
                p99=max(second.p99 for second in seconds),
            )
        )
    return total


def _histogram_to_json(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "mean": round(histogram.mean, 1),
        **{f"p{percent:g}": histogram.percentile(percent) for percent in PERCENTILES},
        "max": histogram.maximum,
        "hdr": histogram.encode(),
    }


def to_json(result: LoadResult) -> dict[str, Any]:
    """A JSON object: figures to read, and the encoded histograms to merge or compare later. Times are in µs."""
    return {
        "seconds": round(result.seconds, 3),
        "calls_per_second": round(result.calls_per_second, 1),
        "items_per_second": round(result.items_per_second, 1),
        "client_cpu_seconds": round(result.client_cpu_seconds, 2),
        "ops": {
            op.value: {
                "codes": dict(part.codes),
                "items": part.items,
                "latency_us": _histogram_to_json(part.latency),
            }
            for op, part in result.ops.items()
        },
        "written": {
            "likes": result.written.likes,
            "unlikes": result.written.unlikes,
            "refused": result.written.refused,
            "uncertain": result.written.uncertain,
        },
        "send_lag_us": _histogram_to_json(result.send_lag),
        "timeline": [
            {"calls": second.calls, "errors": second.errors, "p50": second.p50, "p99": second.p99}
            for second in result.timeline
        ],
        "messages": dict(result.messages),
    }


def from_json(data: Mapping[str, Any]) -> LoadResult:
    """The opposite of ``to_json``."""
    return LoadResult(
        seconds=data["seconds"],
        ops={
            Op(name): OpResult(
                codes=Counter(part["codes"]),
                items=part["items"],
                latency=Histogram.decode(part["latency_us"]["hdr"]),
            )
            for name, part in data["ops"].items()
        },
        written=Written(**data["written"]),
        send_lag=Histogram.decode(data["send_lag_us"]["hdr"]),
        timeline=[Second(**second) for second in data["timeline"]],
        client_cpu_seconds=data["client_cpu_seconds"],
        messages=Counter(data["messages"]),
    )
