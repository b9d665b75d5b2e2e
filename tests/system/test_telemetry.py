"""Metrics, traces and the lines of slow calls, of a cluster's real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.v1 import like_service_pb2 as api
from tests.parts.metrics import address_in, scrape, value
from tests.parts.otlp_collector import Collector, Kept, collecting
from tests.parts.stubs import like_stub
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)

HELD = 0.6
"""Seconds for which a test keeps a commit waiting."""
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[EmbeddedCluster]:
    """A cluster of one node whose processes tell all they can."""
    with pytest.MonkeyPatch.context() as patch:
        for prefix in ("LIKERING_NODE_", "LIKERING_ROUTER_"):
            patch.setenv(f"{prefix}METRICS_LISTEN", "127.0.0.1:0")
            patch.setenv(f"{prefix}TRACING", "true")
            patch.setenv(f"{prefix}SLOW_CALL", "0.000001")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with EmbeddedCluster(tmp_path_factory.mktemp("telling"), nodes=1, slots=8) as cluster:
            with LikeTracker(cluster.address) as likes:
                likes.like("first", "first")  # what comes at the very start may be tried twice
            yield cluster


@pytest.fixture
async def channel(telling: EmbeddedCluster) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(telling.address) as channel:
        yield channel


def slow_calls(cluster: EmbeddedCluster, log: str) -> list[dict[str, Any]]:
    """The lines of slow calls."""
    text = (cluster.directory / "logs" / log).read_text()
    return [json.loads(line) for line in text.splitlines() if '"slow call"' in line]


def lines(cluster: EmbeddedCluster, log: str, request_id: str) -> list[dict[str, Any]]:
    """Those with this request id."""
    return [line for line in slow_calls(cluster, log) if line["request_id"] == request_id]


def names(collector: Collector, trace: str) -> set[tuple[str, str]]:
    """Service and name of the spans that have come of a trace."""
    return {(one.service, one.span.name) for one in collector.of_trace(trace)}


async def test_a_slow_call_leaves_a_line_in_router_and_node_that_says_where_the_time_went(
    telling: EmbeddedCluster, channel: grpc.aio.Channel
) -> None:
    """Here in the commit: somebody else holds the writer's row."""
    postgres = telling.parts["a", "postgres"].server
    assert isinstance(postgres, PostgresServer)
    request = api.LikeRequest(user_id="u", post_id="slow")
    await like_stub(channel).Like(
        request, timeout=30
    )  # of a cluster that has just begun the first may be tried twice
    with psycopg.connect(postgres.dsn) as locking:
        locking.execute("SELECT FROM likering.writer FOR UPDATE")
        calling = asyncio.ensure_future(
            like_stub(channel).Like(request, metadata=(("x-request-id", "slow-one"),), timeout=30)
        )
        await asyncio.sleep(HELD)  # the time that the lines are to tell
        assert not calling.done()
    await calling
    await until(
        lambda: bool(lines(telling, "router.log", "slow-one") and lines(telling, "a-node.log", "slow-one"))
    )
    (routers,), (nodes,) = (lines(telling, log, "slow-one") for log in ("router.log", "a-node.log"))
    assert (routers["method"], routers["code"], routers["nodes"]) == (
        "likering.v1.LikeService/Like",
        "OK",
        ["a"],
    )
    assert (nodes["method"], nodes["code"]) == ("likering.shard.v1.ShardService/Execute", "OK")
    assert sum(routers["spent"].values()) == pytest.approx(routers["seconds"], abs=0.002)
    assert sum(nodes["spent"].values()) == pytest.approx(nodes["seconds"], abs=0.002)
    # What the router says of the node is what the node says of itself. The writer may have been at a beat when it came.
    waited = {part: routers["spent"][part] for part in ("node_queue", "commit", "cache")}
    assert waited == pytest.approx({part: nodes["spent"][part] for part in waited}, abs=0.001)
    assert waited["node_queue"] + waited["commit"] > HELD / 2
    assert set(routers["spent"]) == {
        "router_queue",
        "wire",
        "node_queue",
        "commit",
        "cache",
        "node",
        "router",
    }


async def test_reads_and_lists_say_where_the_time_went(
    telling: EmbeddedCluster, channel: grpc.aio.Channel
) -> None:
    metadata = (("x-request-id", "read-one"),)
    await like_stub(channel).GetLikeCount(api.GetLikeCountRequest(post_id="p"), metadata=metadata)
    await like_stub(channel).ListLikers(api.ListLikersRequest(post_id="p"), metadata=metadata)
    await until(lambda: len(lines(telling, "router.log", "read-one")) == 2)
    count, listed = lines(telling, "router.log", "read-one")
    assert count["spent"]["reads"] > 0
    assert listed["nodes"] == ["a"]
    assert listed["spent"]["wire"] > 0


async def test_a_trace_leads_from_the_caller_through_router_and_node_to_the_commit(
    telling: EmbeddedCluster, channel: grpc.aio.Channel, collector: Collector
) -> None:
    request = api.LikeRequest(user_id="u1", post_id="traced")
    await like_stub(channel).Like(request, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),))
    path = [
        ("likering-router", "likering.v1.LikeService/Like"),
        ("likering-router", "likering.shard.v1.ShardService/Execute"),
        ("likering-node", "likering.shard.v1.ShardService/Execute"),
        ("likering-node", "commit"),
    ]
    await until(lambda: names(collector, TRACE) >= set(path))
    spans = collector.of_trace(TRACE)
    assert names(collector, TRACE) == set(path)
    parent = CALLER
    for service, name in path:
        (step,) = [one for one in spans if (one.service, one.span.name) == (service, name)]
        assert step.span.parent_span_id.hex() == parent
        assert step.span.start_time_unix_nano < step.span.end_time_unix_nano
        parent = step.span.span_id.hex()
    commit = next(one for one in spans if one.span.name == "commit")
    assert commit.attribute("db.system.name") == "postgresql"
    (line,) = [line for line in slow_calls(telling, "router.log") if line.get("trace_id") == TRACE]
    assert line["method"] == "likering.v1.LikeService/Like"


@pytest.mark.parametrize(
    ("method", "number"), [("GetLikeCount", 1), ("ListLikers", 2), ("ListLikedPosts", 3)]
)
async def test_a_trace_of_a_read_leads_to_the_database(
    telling: EmbeddedCluster, channel: grpc.aio.Channel, collector: Collector, method: str, number: int
) -> None:
    """Also of a list, which is no operation of a batch."""
    trace = f"{number:x}" * 32
    metadata = (("traceparent", f"00-{trace}-{CALLER}-01"),)
    stub = like_stub(channel)
    if method == "GetLikeCount":
        await stub.GetLikeCount(api.GetLikeCountRequest(post_id=f"read-{trace}"), metadata=metadata)
    elif method == "ListLikers":
        await stub.ListLikers(api.ListLikersRequest(post_id="p"), metadata=metadata)
    else:
        await stub.ListLikedPosts(api.ListLikedPostsRequest(user_id="u"), metadata=metadata)
    asked = f"likering.shard.v1.ShardService/{'Execute' if method == 'GetLikeCount' else method}"
    path = [
        ("likering-router", f"likering.v1.LikeService/{method}"),
        ("likering-router", asked),
        ("likering-node", asked),
        ("likering-node", "read"),
    ]
    await until(lambda: names(collector, trace) >= set(path))
    spans = {(one.service, one.span.name): one.span for one in collector.of_trace(trace)}
    parent = CALLER
    for step in path:
        assert spans[step].parent_span_id.hex() == parent, step
        parent = spans[step].span_id.hex()


async def test_calls_that_travel_together_are_linked_to_their_batch_and_their_commit(
    telling: EmbeddedCluster, channel: grpc.aio.Channel, collector: Collector
) -> None:
    before = len(collector.kept)
    calls = [
        like_stub(channel).Like(api.LikeRequest(user_id=f"u{number}", post_id="together"))
        for number in range(50)
    ]
    await asyncio.gather(*calls)

    def new(service: str, name: str) -> list[Kept]:
        return [one for one in collector.kept[before:] if (one.service, one.span.name) == (service, name)]

    def batches() -> list[Kept]:
        return new("likering-router", "likering.shard.v1.ShardService/Execute")

    def accounted() -> int:
        return len(batches()) + sum(len(one.span.links) for one in batches())

    await until(
        lambda: len(new("likering-router", "likering.v1.LikeService/Like")) == 50 and accounted() == 50
    )
    own = {one.span.span_id for one in new("likering-router", "likering.v1.LikeService/Like")}
    assert {one.span.parent_span_id for one in batches()} | {
        link.span_id for one in batches() for link in one.span.links
    } == own
    assert any(one.span.links for one in batches())


async def test_a_trace_that_the_caller_does_not_keep_is_not_exported(
    channel: grpc.aio.Channel, collector: Collector
) -> None:
    unsampled, sampled = "8" * 32, "9" * 32
    for trace_id, flags in ((unsampled, "00"), (sampled, "01")):
        request = api.GetLikeCountRequest(post_id="p")
        await like_stub(channel).GetLikeCount(
            request, metadata=(("traceparent", f"00-{trace_id}-{CALLER}-{flags}"),)
        )
    await until(lambda: bool(collector.of_trace(sampled)))
    assert not collector.of_trace(unsampled)


async def test_metrics_tell_what_was_done(telling: EmbeddedCluster, channel: grpc.aio.Channel) -> None:
    logs = telling.directory / "logs"
    router, node = (address_in(logs / name) for name in ("router.log", "a-node.log"))
    before = scrape(router), scrape(node)
    stub = like_stub(channel)
    for number in range(10):
        await stub.Like(api.LikeRequest(user_id=f"m{number}", post_id="metered"))
    for _ in range(3):
        await stub.GetLikeCount(api.GetLikeCountRequest(post_id="metered"))
    after = scrape(router), scrape(node)

    def grown(at: int, name: str, **labels: str) -> float:
        return value(after[at], name, **labels) - value(before[at], name, **labels)

    assert grown(0, "grpc_server_handled_total", grpc_method="Like", grpc_code="OK") == 10
    assert grown(0, "likering_router_batch_operations_sum", traffic="writes") == 10
    assert grown(0, "likering_router_batches_total", node="a", fate="answered") == 13
    assert grown(1, "likering_writer_operations_total") == 10
    assert grown(1, "likering_writer_batch_operations_sum") == 10
    assert grown(1, "likering_writer_commit_seconds_count") >= 1
    assert grown(1, "likering_writer_queue_seconds_count") == 10
    assert grown(1, "likering_slot_writes_total") == 10
    assert grown(1, "likering_cache_hits_total") == 2
    assert grown(1, "likering_cache_misses_total") == 1
    assert value(after[1], "likering_writer_leads") == 1
    assert value(after[1], "likering_node_slots", state="owner") == 8
    assert value(after[0], "likering_router_node_connected", node="a") == 1


def test_without_tracing_nothing_that_exports_traces_is_imported() -> None:
    """The API and the SDK may be, where they are installed: redis-py looks for them."""
    program = (
        "import router.app, shard_node.app, shard_node.replica.app, sys;"
        "print('opentelemetry.exporter' in sys.modules or 'likering.serving.otel' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_tracing_without_the_extra_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A package of the extra that is not there."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    run = subprocess.run(
        [sys.executable, "-m", "router", "--topology", "host=nowhere", "--tracing"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{tmp_path}:."},
    )
    assert run.returncode == 2
    assert "likering[otel]" in run.stderr
