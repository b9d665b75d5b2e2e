"""Several routers of one cluster, under load: one leaves, another comes, and no caller notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic

import pytest

from likering import AsyncLikes
from likering.dev.cluster import EmbeddedCluster
from tests.parts.balancer import balancer
from tests.parts.router_process import RouterProcess, router_process
from tests.parts.until import until

AGE = 2.0
"""Seconds after which a connection comes of age, ±10 %."""
GRACE = 3.0
"""Seconds more for what has to be done anew, on a busy machine."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(tmp_path_factory.mktemp("routers"), nodes=1, slots=8) as cluster:
        yield cluster


@asynccontextmanager
async def another_router(cluster: EmbeddedCluster) -> AsyncIterator[RouterProcess]:
    """One that serves, besides the cluster's own."""
    async with router_process(
        *("--listen", "127.0.0.1:0", "--drain-delay", "0.5", "--max-connection-age", str(AGE)),
        LIKERING_ROUTER_TOPOLOGY=cluster.topology_dsn,
    ) as router:
        await router.has_logged("serving")
        yield router


class Load:
    """Users who like one post after the other. A like that fails ends it, and ``more`` says with what."""

    def __init__(self, likes: AsyncLikes, name: str, callers: int = 16) -> None:
        self._likes = likes
        self._name = name
        self._stop = False
        self.done = 0
        self._callers = asyncio.gather(*(self._call(number) for number in range(callers)))

    async def _call(self, caller: int) -> None:
        for number in count():
            if self._stop:
                return
            await self._likes.like(f"{self._name}-{caller}-{number}", f"{self._name}-{number % 50}")
            self.done += 1

    async def more(self, likes: int) -> None:
        """Waits until so many more have been acknowledged."""
        wanted = self.done + likes
        await until(lambda: self._callers.done() or self.done >= wanted, 30)
        if self._callers.done():
            await self._callers

    async def end(self) -> int:
        """Ends it; how many likes were acknowledged."""
        self._stop = True
        await self._callers
        return self.done


async def test_no_call_fails_while_a_router_is_drained(cluster: EmbeddedCluster) -> None:
    """Each of two leaves once while the other one stays; and what was acknowledged is there."""
    async with another_router(cluster) as first, another_router(cluster) as second:
        async with AsyncLikes(f"ipv4:{first.address},{second.address}") as likes:
            load = Load(likes, "drained")
            await load.more(500)
            first.process.terminate()
            assert await first.ended() == 0
            await load.more(500)
            acknowledged = await load.end()
            counts = await asyncio.gather(*(likes.like_count(f"drained-{number}") for number in range(50)))
        assert sum(counts) == acknowledged


async def test_a_router_that_comes_gets_traffic_when_connections_come_of_age(
    cluster: EmbeddedCluster,
) -> None:
    """Behind a balancer of connections; and those who connect anew for that notice nothing either."""
    async with (
        another_router(cluster) as first,
        balancer(first.address) as way,
        AsyncLikes(way.address) as likes,
    ):
        load = Load(likes, "of-age")
        await load.more(200)
        async with another_router(cluster) as second:
            way.servers.append(second.address)
            came = monotonic()
            await until(lambda: way.given[second.address] > 0, 30)
            # Every other connection is the second one's.
            assert monotonic() - came < 2 * 1.1 * AGE + GRACE
            await load.more(200)
            await load.end()
            assert second.process.returncode is None
