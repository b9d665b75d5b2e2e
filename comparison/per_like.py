"""What a Like costs router and node on an embedded cluster of one node: calls a second and CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import grpc.aio

from likering.bench.cpu import cpu_seconds
from likering.dev.cluster import EmbeddedCluster
from likering.serving.tracing import Metadata
from likering.v1 import like_service_pb2 as api
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

CALLERS: Final = 64
WARM_UP: Final = 2.0
"""Seconds before it counts."""


class Figure(NamedTuple):
    """Of one mode in one round."""

    calls_per_second: float
    cpu_us: float
    """Of router and node together, per call."""


async def likes(
    channel: grpc.aio.Channel,
    seconds: float,
    pids: Mapping[str, list[int]],
    *,
    user: str = "",
    metadata: Metadata = (),
) -> Figure:
    """So many callers, one Like after the other each: of ``user``, each of another post, else each of another user.

    ``metadata`` goes with every call.
    """
    done = 0

    async def call(stub: LikeServiceAsyncStub, caller: int, until: float) -> None:
        nonlocal done
        number = 0
        while time.monotonic() < until:
            number += 1
            new = f"{until}-{caller}-{number}"
            request = api.LikeRequest(user_id=user or new, post_id=new if user else f"p{number % 5000}")
            request.intent_time.GetCurrentTime()  # so that it is tried again where a node has just begun
            await stub.Like(request, metadata=metadata)
            done += 1

    async with channel:
        stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))

        async def run(seconds: float) -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(*(call(stub, caller, until) for caller in range(CALLERS)))

        await run(WARM_UP)
        done, cpu, began = 0, sum(cpu_seconds(pids).values()), time.monotonic()
        await run(seconds)
        return Figure(done / (time.monotonic() - began), (sum(cpu_seconds(pids).values()) - cpu) / done * 1e6)


def processes(cluster: EmbeddedCluster) -> Mapping[str, list[int]]:
    """Those that a Like goes through, of a cluster of the node a."""
    node = cluster.parts["a", "node"].pid
    assert node is not None
    return {"router": cluster.router_pids, "node": [node]}


def table(what: str, figures: Mapping[str, Sequence[Figure]]) -> str:
    """In Markdown: a line for each mode, beside the first one."""
    first, base = next(iter(figures.items()))
    lines = [
        f"| {what} | calls/s | router + node CPU per Like, µs | ÷ {first}, in the same round |",
        "|---|---|---|---|",
    ]
    for mode, found in figures.items():
        ratios = [figure.cpu_us / other.cpu_us for figure, other in zip(found, base, strict=True)]
        lines.append(
            f"| {mode} | {median(figure.calls_per_second for figure in found):,.0f} |"
            f" {_spread([figure.cpu_us for figure in found], 0)} | {_spread(ratios, 2)} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    """Median, lowest and highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
