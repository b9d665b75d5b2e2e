"""The router as a process: start, workers, drain, mistakes, and life without the topology database."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

import grpc
import grpc.aio
import psutil
import pytest

from likering.admin.v1 import ring_service_pb2 as admin
from likering.dev.postgres import PostgresServer
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from likering.topology.store import NodeRegistration
from likering.v1 import like_service_pb2 as api
from tests.parts.fake_shard import SLOTS, FakeShard, fake_shards
from tests.parts.metrics import scrape, value
from tests.parts.router_process import RouterProcess, router_process
from tests.parts.stubs import health, like_stub, ring_stub
from tests.parts.until import until

NAME = "likering.v1.LikeService"


async def set_up(dsn: str, *fakes: FakeShard) -> None:
    """A cluster whose first shard owns all slots."""
    await create_cluster(dsn, SLOTS)
    store = PostgresTopologyStore(dsn)
    for fake in fakes:
        topology = await store.register(
            NodeRegistration(
                cluster_id=None,
                name=fake.name,
                uuid=str(uuid.uuid4()),
                address=fake.address,
                weight=1,
                generation=1,
                system_identifier="1",
            )
        )
    topology = await store.assign(topology.version, dict.fromkeys(range(SLOTS), fakes[0].name))
    for fake in fakes:
        fake.topology = topology
    await store.close()


def two_free_ports() -> int:
    """The first of two, one after the other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one, suppress(OSError, OverflowError):
            port: int = one.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


async def take_over(dsn: str, fake: FakeShard, address: str) -> None:
    """Another process writes for the node now."""
    store = PostgresTopologyStore(dsn)
    node = (await store.get()).nodes[fake.name]
    await store.register(
        NodeRegistration(
            cluster_id=None,
            name=node.name,
            uuid=node.uuid,
            address=address,
            weight=1,
            generation=node.generation + 1,
            system_identifier="1",
        )
    )
    await store.close()


@asynccontextmanager
async def serving(dsn: str, *arguments: str, workers: int = 1) -> AsyncIterator[RouterProcess]:
    """A router that serves."""
    async with router_process(
        *("--listen", "127.0.0.1:0", "--workers", str(workers), "--drain-delay", "0.3", *arguments),
        LIKERING_ROUTER_TOPOLOGY=dsn,
    ) as router:
        await router.has_logged("serving", workers)
        yield router


async def like(channel: grpc.aio.Channel, user: str, seconds: float = 10) -> api.LikeResponse:
    return await like_stub(channel).Like(api.LikeRequest(user_id=user, post_id="p"), timeout=seconds)


class Load:
    """Callers that like one after the other, until stopped; remembers what failed, and when that call began."""

    def __init__(self, channel: grpc.aio.Channel, callers: int) -> None:
        self.done = 0
        self.failed: list[tuple[float, grpc.StatusCode]] = []
        self._channel = channel
        self._stop = False
        self._callers = [asyncio.create_task(self._call(number)) for number in range(callers)]

    async def _call(self, number: int) -> None:
        while not self._stop:
            began = monotonic()
            try:
                await like(self._channel, f"u{number}")
                self.done += 1
            except grpc.aio.AioRpcError as error:
                self.failed.append((began, error.code()))

    async def more(self, calls: int) -> None:
        """Waits until so many more calls succeeded."""
        target = self.done + calls
        await until(lambda: self.done >= target)

    async def stop(self) -> None:
        """Lets the calls in flight end."""
        self._stop = True
        await asyncio.gather(*self._callers)


async def test_it_serves_likes_health_and_json_lines(database: str) -> None:
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with (
            serving(database) as router,
            grpc.aio.insecure_channel(router.address) as channel,
        ):
            assert await health(channel) == "SERVING"
            assert await health(channel, NAME) == "SERVING"
            assert (await like(channel, "u")).like_count.count == 1
            router.process.terminate()
            assert await router.ended() == 0
            assert router.logged("drained")
            assert not [line for line in router.lines if "text" in line]
            assert {line["service"] for line in router.lines} == {"likering-router"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_operators_have_a_port_of_their_own(database: str, workers: int) -> None:
    """One worker serves them, with health; a watcher does not hold up the drain."""
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with serving(database, "--admin-listen", "127.0.0.1:0", workers=workers) as router:
            (line,) = router.logged("listening for operators")
            async with (
                grpc.aio.insecure_channel(line["address"]) as channel,
                grpc.aio.insecure_channel(router.address) as callers,
            ):
                await until_serving(channel)
                assert await health(channel, "likering.admin.v1.RingService") == "SERVING"
                watching = ring_stub(channel).WatchTopology(admin.WatchTopologyRequest())
                assert await watching.read() is not grpc.aio.EOF
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ring_stub(callers).GetTopology(admin.GetTopologyRequest())
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                router.process.terminate()
                async with asyncio.timeout(10):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await watching.read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert await router.ended() == 0


async def until_serving(channel: grpc.aio.Channel) -> None:
    """The worker with that port may be the last to serve."""
    async with asyncio.timeout(20):
        while await health(channel) != "SERVING":
            pass


async def test_each_worker_has_a_port_for_its_metrics(database: str) -> None:
    """The one that was asked for, and the one after it."""
    first = two_free_ports()
    async with fake_shards("a") as (shard,):
        await set_up(database, shard)
        async with serving(database, "--metrics-listen", f"127.0.0.1:{first}", workers=2):
            for port in (first, first + 1):
                assert value(scrape(f"127.0.0.1:{port}"), "likering_topology_reachable") == 1
            assert value(scrape(f"127.0.0.1:{first}"), "likering_router_node_connected", node="a") == 1


async def test_a_taken_port_for_metrics_is_one_sentence(database: str) -> None:
    async with fake_shards("a") as (shard,):
        await set_up(database, shard)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with router_process(
                *("--listen", "127.0.0.1:0", "--metrics-listen", address), LIKERING_ROUTER_TOPOLOGY=database
            ) as router:
                assert await router.ended() == 2
                assert f"cannot serve metrics on {address}" in str(router.lines)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_taken_port_for_operators_is_one_sentence_too(database: str, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with router_process(
            *("--listen", "127.0.0.1:0", "--workers", workers, "--admin-listen", address),
            LIKERING_ROUTER_TOPOLOGY=database,
        ) as router:
            assert await router.ended() == 2
    (line,) = [line["text"] for line in router.lines if "text" in line]
    assert line.startswith(f"likering-router: Cannot listen on {address}: ")


async def test_sigterm_fails_no_call_in_flight(database: str) -> None:
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with (
            serving(database) as router,
            grpc.aio.insecure_channel(router.address) as channel,
        ):
            await like(channel, "first")
            a.open.clear()
            calls = [asyncio.create_task(like(channel, f"u{number}", 30)) for number in range(50)]
            await until(lambda: len(a.batches) > 1)
            router.process.terminate()
            await router.has_logged("draining")
            a.open.set()
            responses = await asyncio.gather(*calls)
            assert sorted(response.like_count.count for response in responses) == list(range(2, 52))
            assert await router.ended() == 0


async def test_sigterm_under_load_fails_only_calls_that_came_too_late(database: str) -> None:
    """What fails began after the signal, and was never executed: gRPC refuses it while the server shuts down."""
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with (
            serving(database) as router,
            grpc.aio.insecure_channel(router.address) as channel,
        ):
            load = Load(channel, 32)
            await load.more(300)
            signalled = monotonic()
            router.process.terminate()
            assert await router.ended() == 0
            await load.stop()
            assert len(a.operations) == load.done
            assert all(began > signalled for began, _ in load.failed)
            assert {code for _, code in load.failed} <= {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            }


async def test_workers_share_the_port_and_one_that_ends_is_replaced(database: str) -> None:
    """Calls in flight at the signal do not fail, nor do those of the other worker."""
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with serving(database, workers=2) as router:
            assert len(router.workers()) == 2
            assert len({line["address"] for line in router.logged("listening")}) == 1
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(router.address, options=options) for _ in range(8)]
            loads = [Load(channel, 4) for channel in channels]
            for load in loads:
                await load.more(20)
            victim = router.workers()[0]
            signalled = monotonic()
            victim.terminate()
            await router.has_logged("serving", 3)
            assert victim.pid not in [worker.pid for worker in router.workers()]
            for load in loads:
                await load.more(20)
                await load.stop()
            assert len(a.operations) == sum(load.done for load in loads)
            failed = [failure for load in loads for failure in load.failed]
            # Those that came in the instant in which gRPC shuts down, one for each caller of that worker at most.
            assert all(began > signalled for began, _ in failed)
            assert len(failed) < 32
            for channel in channels:
                await channel.close()
            router.process.terminate()
            assert await router.ended() == 0
            assert len(router.logged("drained")) == 3


async def test_a_killed_worker_is_replaced(database: str) -> None:
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with serving(database, workers=2) as router:
            for worker in router.workers():
                worker.kill()
            await router.has_logged("serving", 4)
            assert len(router.logged("a worker died")) == 2
            async with grpc.aio.insecure_channel(router.address) as channel:
                assert (await like(channel, "u")).like_count.count == 1


async def test_workers_end_with_their_parent(database: str) -> None:
    async with fake_shards("a") as (a,):
        await set_up(database, a)
        async with serving(database, workers=2) as router:
            workers = router.workers()
            os.kill(router.process.pid, signal.SIGKILL)
            await until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_taken_port_is_one_sentence_and_exit_code_2(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with router_process(
            "--listen", address, "--workers", workers, "--topology", "postgresql://nobody@127.0.0.1:1/none"
        ) as router:
            assert await router.ended() == 2
    (line,) = [line["text"] for line in router.lines if "text" in line]
    assert line.startswith(f"likering-router: Cannot listen on {address}: ")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_without_any_topology_it_says_so_and_ends(workers: str) -> None:
    async with router_process(
        *("--listen", "127.0.0.1:0", "--workers", workers, "--start-timeout", "0.5"),
        LIKERING_ROUTER_TOPOLOGY="postgresql://nobody:secret@127.0.0.1:1/none",
    ) as router:
        assert await router.ended() == 4
    assert any(line.get("text", "").startswith("likering-router: ") for line in router.lines)
    assert "secret" not in str(router.lines)


async def test_a_dsn_that_is_none_is_one_sentence_and_exit_code_2() -> None:
    async with router_process("--listen", "127.0.0.1:0", "--topology", "no such=thing=") as router:
        assert await router.ended() == 2
    (line,) = router.lines
    assert line["text"].startswith("likering-router: --topology (LIKERING_ROUTER_TOPOLOGY): this is not")


async def test_life_goes_on_without_the_topology_database(tmp_path: Path) -> None:
    """A router that runs keeps its topology; one that starts asks the seeds; both come back by themselves."""
    postgres = PostgresServer(tmp_path / "topology")
    postgres.start()
    try:
        async with fake_shards("a") as (a,):
            await set_up(postgres.dsn, a)
            async with serving(postgres.dsn) as router:
                postgres.stop()
                await router.has_logged("topology_not_updated")
                async with grpc.aio.insecure_channel(router.address) as channel:
                    assert (await like(channel, "u1")).like_count.count == 1
                    assert await health(channel) == "SERVING"
                    async with serving(postgres.dsn, "--seeds", f"127.0.0.1:1,{a.address}") as late:
                        assert late.logged("topology from a node: its database does not answer")
                        async with grpc.aio.insecure_channel(late.address) as second:
                            assert (await like(second, "u2")).like_count.count == 2
                        postgres.start()
                        await take_over(postgres.dsn, a, a.address)
                        await until(lambda: late.logged("topology")[-1]["version"] > 2)
                        await until(lambda: router.logged("topology")[-1]["version"] > 2)
                    assert (await like(channel, "u3")).like_count.count == 3
    finally:
        postgres.stop()


async def test_a_node_that_is_stopped_is_noticed_within_two_seconds(database: str) -> None:
    """SIGSTOP of a peer's process: its kernel still accepts, so only keepalive can tell."""
    async with fake_shards("unused") as (unused,):
        await set_up(database, unused)
        async with (
            serving(database) as node_like,
            serving(database) as router,
        ):
            # The peer is a router process here: any gRPC server with a pid of its own will do.
            await take_over(database, unused, node_like.address)
            await router.has_logged("node connected", 2)
            psutil.Process(node_like.process.pid).suspend()
            started = asyncio.get_running_loop().time()
            await router.has_logged("node not connected", 2)
            assert asyncio.get_running_loop().time() - started < 2.5
            psutil.Process(node_like.process.pid).resume()
            await router.has_logged("node connected", 3)
