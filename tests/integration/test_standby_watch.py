"""A node that is to write only while its Postgres has a synchronous standby, on a real primary and a real standby."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg import sql

from likering import LikeTracker
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.errors import NoSynchronousStandby
from likering.shard.v1.shard_service_pb2 import OP_CODE_NO_STANDBY
from shard_node.database import conninfo
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.standby import Lack, StandbyWatch
from shard_node.writer import BEAT_INTERVAL, Writer
from tests.integration.node_database import SLOTS, prepared, unit
from tests.parts.standby import Standby
from tests.parts.until import until

DEADLINE = 20.0


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[PostgresServer]:
    """A Postgres of the test's own, with no standby yet."""
    server = PostgresServer(tmp_path / "primary")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def standby(primary: PostgresServer, tmp_path: Path) -> Iterator[Standby]:
    """Its standby, once it is told to follow."""
    standby = Standby(primary, tmp_path / "standby")
    yield standby
    standby.stop()


@asynccontextmanager
async def writing(
    dsn: str, watch: StandbyWatch, *, leads: bool = True
) -> AsyncIterator[tuple[Writer, Leadership]]:
    """A writer that runs, and from the begin leads, unless it cannot."""
    led: list[int] = []
    ownership = Ownership(SLOTS)
    leadership = Leadership(dsn, "a", led.append, standby=watch)

    async def publish(_batch: object) -> None:
        pass

    writer = Writer(leadership, ownership, publish, standby=watch)
    running = asyncio.create_task(writer.run())
    if leads:
        await until(lambda: bool(led) and bool(ownership.epochs))
    yield writer, leadership
    running.cancel()
    await asyncio.wait((running,))


async def like(writer: Writer, user: str) -> int:
    """The code of one like; 0 when it was taken."""
    operation = unit([(True, "p", user, 0)])
    async with asyncio.timeout(DEADLINE):
        await writer.submit(operation)
    return operation.codes[0] if operation.codes else 0


async def taken(writer: Writer, user: str) -> None:
    """Returns once a like was taken; before, each must be refused for want of a standby, and for nothing else."""
    async with asyncio.timeout(DEADLINE):
        while (code := await like(writer, user)) != 0:
            assert code == OP_CODE_NO_STANDBY
            await asyncio.sleep(0.05)


async def likes_of(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(conninfo(dsn, "test")) as connection:
        row = await (await connection.execute("SELECT count(*) FROM edges")).fetchone()
        assert row is not None
        return int(row[0])


async def test_writes_wait_for_a_standby_that_is_asked_for(primary: PostgresServer, standby: Standby) -> None:
    """Refused while commits wait for nobody; nothing of them is written. The lead can be proved, for reads."""
    registry = CollectorRegistry()
    watch = StandbyWatch(registry=registry)
    async with prepared(primary.dsn), writing(primary.dsn, watch) as (writer, _):
        assert await like(writer, "u1") == OP_CODE_NO_STANDBY
        assert watch.lack is Lack.NOT_ASKED_FOR
        assert await writer.barrier()
        assert registry.get_sample_value("likering_node_synchronous_standby") == 0
        assert await likes_of(primary.dsn) == 0
        await asyncio.to_thread(standby.follow)
        await taken(writer, "u1")
        assert registry.get_sample_value("likering_node_synchronous_standby") == 1


async def test_a_standby_that_has_gone_is_not_waited_for(primary: PostgresServer, standby: Standby) -> None:
    """Likes are refused at once instead of ending in an outcome that nobody knows, and taken when it is back."""
    watch = StandbyWatch(registry=CollectorRegistry())
    async with prepared(primary.dsn):
        await asyncio.to_thread(standby.follow)
        async with writing(primary.dsn, watch) as (writer, _):
            await taken(writer, "u1")
            await asyncio.to_thread(standby.stop)
            await until(lambda: watch.lack is Lack.AWAY, DEADLINE)
            assert await like(writer, "u2") == OP_CODE_NO_STANDBY
            assert not await writer.barrier()
            await asyncio.to_thread(standby.start)
            await taken(writer, "u3")
            assert await likes_of(primary.dsn) == 2


class Told(StandbyWatch):
    """A watch that is told what to see."""

    async def look(self, connection: object) -> None:
        """Sees that."""


async def test_nothing_is_committed_while_commits_would_wait(database: str) -> None:
    """Beats neither: the lead is kept for when the standby is back, though nothing proves it meanwhile."""
    watch = Told(registry=CollectorRegistry())
    async with prepared(database), writing(database, watch) as (writer, leadership):
        generation = leadership.fence.generation
        watch.lack = Lack.AWAY
        await until(lambda: leadership.proof_age > 3 * BEAT_INTERVAL)
        assert await like(writer, "u") == OP_CODE_NO_STANDBY
        watch.lack = None
        assert await like(writer, "u") == 0
        assert leadership.fence.generation == generation


async def test_a_node_may_start_while_the_standby_is_away(primary: PostgresServer, standby: Standby) -> None:
    """Taking the lead is a commit, and waits; likes that come meanwhile are told what it waits for."""
    watch = StandbyWatch(registry=CollectorRegistry())
    async with prepared(primary.dsn):
        await asyncio.to_thread(standby.follow)
        await asyncio.to_thread(standby.stop)
        async with writing(primary.dsn, watch, leads=False) as (writer, _):
            await until(lambda: watch.lack is Lack.AWAY, DEADLINE)
            assert await like(writer, "u1") == OP_CODE_NO_STANDBY
            await asyncio.to_thread(standby.start)
            await taken(writer, "u1")


async def test_a_role_that_may_not_see_standbys_goes_by_their_names(primary: PostgresServer) -> None:
    """Without pg_read_all_stats Postgres hides who streams: that is not taken for an absence."""
    role = sql.Identifier("app")
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'app'").format(role))
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")
    watch = StandbyWatch(registry=CollectorRegistry())
    dsn = psycopg.conninfo.make_conninfo(primary.dsn, user="app", password="app")

    async def lack() -> Lack | None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await watch.look(connection)
        return watch.lack

    async with asyncio.timeout(DEADLINE):
        while await lack() is not None:  # noqa: ASYNC110 - the reload needs a moment
            await asyncio.sleep(0.05)
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(role))
    assert await lack() is Lack.AWAY


def test_callers_are_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole node that is set so, without a standby: writes fail with the reason, reads are answered."""
    monkeypatch.setenv("LIKERING_NODE_REQUIRE_SYNCHRONOUS_STANDBY", "true")
    with EmbeddedCluster(tmp_path / "cluster", nodes=1) as cluster:
        with LikeTracker(cluster.address, timeout=DEADLINE) as likes:
            assert likes.like_count("p") == 0  # once the node has made its slots
        with LikeTracker(cluster.address, timeout=2.0) as likes:
            with pytest.raises(NoSynchronousStandby):
                likes.like("u", "p")
            assert likes.like_count("p") == 0
