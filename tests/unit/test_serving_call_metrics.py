"""The figures of calls and of waits, as Prometheus gets them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily

from likering.errors import RouterOverloaded
from likering.serving.call_metrics import CallMetrics, CallTally
from likering.serving.distribution import Distribution
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server
from likering.v1 import like_service_pb2 as api
from tests.parts.stubs import like_stub
from tests.parts.until import until

SERVICE = api.DESCRIPTOR.services_by_name["LikeService"]
LABELS = {"grpc_service": SERVICE.full_name, "grpc_type": "unary"}


class Servicer:
    """Each method ends in a way of its own."""

    def __init__(self) -> None:
        self.waiting = 0

    async def Like(self, request: Any, call: Call) -> Any:
        return api.LikeResponse()

    async def Unlike(self, request: Any, call: Call) -> Any:
        raise RouterOverloaded

    async def HasLiked(self, request: Any, call: Call) -> Any:
        raise ZeroDivisionError

    async def GetLikeCount(self, request: Any, call: Call) -> Any:
        self.waiting += 1
        await asyncio.Event().wait()

    MutateLikes = GetLikeSummaries = FilterLikers = ListLikers = ListLikedPosts = Like

    async def WatchLikeCounts(self, request: Any, call: Call) -> Any:
        for _ in range(3):
            yield api.WatchLikeCountsResponse()

    async def StreamLikeEvents(self, request: Any, call: Call) -> Any:
        yield api.StreamLikeEventsResponse()


async def test_each_call_is_counted_by_how_it_ended() -> None:
    servicer = Servicer()
    server = Server([ServiceHandlers(SERVICE, servicer)])
    registry = CollectorRegistry()
    registry.register(CallMetrics(server.tallies))

    def handled(method: str, code: str) -> float | None:
        return registry.get_sample_value(
            "grpc_server_handled_total", {**LABELS, "grpc_method": method, "grpc_code": code}
        )

    await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = like_stub(channel)
        await stub.Like(api.LikeRequest())
        await stub.Like(api.LikeRequest())
        for method in (stub.Unlike(api.UnlikeRequest()), stub.HasLiked(api.HasLikedRequest())):
            with pytest.raises(grpc.aio.AioRpcError):
                await method
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetLikeCount(api.GetLikeCountRequest(), timeout=0.2)
        given_up = stub.GetLikeCount(api.GetLikeCountRequest(), timeout=60)
        await until(lambda: servicer.waiting == 2)
        given_up.cancel()
        await until(lambda: handled("GetLikeCount", "CANCELLED") == 1)
        async for _ in stub.WatchLikeCounts(api.WatchLikeCountsRequest()):
            pass
        await until(lambda: server.tallies[0].codes["OK"] == 2)
    await server.drain(delay=0, grace=1)
    assert handled("Like", "OK") == 2
    assert handled("Unlike", "RESOURCE_EXHAUSTED") == 1
    assert handled("HasLiked", "INTERNAL") == 1
    assert handled("GetLikeCount", "DEADLINE_EXCEEDED") == 1
    watch = {**LABELS, "grpc_type": "server_stream", "grpc_method": "WatchLikeCounts"}
    assert registry.get_sample_value("grpc_server_msg_sent_total", watch) == 3
    like = {**LABELS, "grpc_method": "Like"}
    assert registry.get_sample_value("grpc_server_started_total", like) == 2
    assert registry.get_sample_value("grpc_server_handling_seconds_count", like) == 2


def test_a_method_that_nobody_calls_has_no_buckets() -> None:
    registry = CollectorRegistry()
    registry.register(CallMetrics([CallTally("s", "M", streams=False)]))
    labels = {"grpc_type": "unary", "grpc_service": "s", "grpc_method": "M"}
    assert registry.get_sample_value("grpc_server_started_total", labels) == 0
    assert registry.get_sample_value("grpc_server_handling_seconds_count", labels) is None


def test_a_distribution_counts_as_the_librarys_histogram_does() -> None:
    bounds, values = (0.1, 0.5, 1.0), (0.05, 0.1, 0.3, 0.5, 0.7, 5.0)
    theirs, ours = Histogram("waits", "", buckets=bounds, registry=None), Distribution(bounds)
    for value in values:
        theirs.observe(value)
        ours.add(value)
    family = HistogramMetricFamily("waits", "", labels=())
    ours.tell(family)
    (expected,) = theirs.collect()
    told = {(sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples}
    wanted = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for sample in expected.samples
        if not sample.name.endswith("_created")
    }
    assert told == wanted
