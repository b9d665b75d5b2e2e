"""The watch: the newest topology soon, the last one for as long as it takes, and never an older one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import psycopg
import pytest

from likering.dev.postgres import PostgresServer
from likering.errors import TopologyUnavailable
from likering.ring.plan import Move
from likering.ring.topology import Topology
from likering.topology import watch as watch_module
from likering.topology.moves import MoveState
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import ClusterMissing, TopologyChange
from likering.topology.watch import TopologyWatch
from tests.integration.topology_database import execute
from tests.parts.frozen import frozen
from tests.parts.registration import registration
from tests.parts.until import until

PATIENCE = 20.0
"""Seconds that a test waits for what must come."""


class Deaf(PostgresTopologyStore):
    """Is told of no change, so only polling finds one."""

    async def changes(self) -> AsyncGenerator[TopologyChange, None]:
        await asyncio.Event().wait()
        yield TopologyChange(0)


class Asked(PostgresTopologyStore):
    """Counts how often it is read, and says when it has begun to tell of changes."""

    reads = 0
    told = False

    async def get(self, known: Topology | None = None) -> Topology:
        self.reads += 1
        return await super().get(known)

    async def changes(self) -> AsyncGenerator[TopologyChange, None]:
        async for change in super().changes():
            self.told = True
            yield change


class Slow(Asked):
    """Gives its answers when it may."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.has_read = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def get(self, known: Topology | None = None) -> Topology:
        topology = await super().get(known)
        self.has_read.set()
        await self.may_answer.wait()
        return topology


async def move_slot(moves: PostgresMoveStore, version: int, slot: int) -> None:
    """From a to b, as far as watchers are told of it."""
    resize = await moves.apply(version, [Move(slot, "a", "b", 1)], {}, "test")
    (move,) = await moves.moves(resize=resize)
    assert await moves.begin(move, "b") == ""
    move = await moves.move(move.move)
    for state in (MoveState.CATCHING_UP, MoveState.FREEZING):
        move = await moves.advance(move, state, "b")
    move = await moves.commit(move, MoveState.COMMITTED, "b", {})
    for state in (
        MoveState.ACTIVATING,
        MoveState.ACTIVE,
        MoveState.MOVED,
        MoveState.VERIFIED,
        MoveState.RETIRED,
    ):
        move = await moves.advance(move, state, "b")


@pytest.fixture
async def watch(database: str, store: PostgresTopologyStore) -> AsyncIterator[TopologyWatch]:
    """A watch that runs, with a store of its own."""
    own = PostgresTopologyStore(database, timeout=0.5)
    watch = TopologyWatch(own)
    await watch.start(PATIENCE)
    yield watch
    await watch.stop()
    await own.close()


async def at_least(watch: TopologyWatch, version: int) -> Topology:
    return await asyncio.wait_for(watch.at_least(version), PATIENCE)


async def test_a_change_arrives_by_notification(
    watch: TopologyWatch, store: PostgresTopologyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 3600.0)
    watch.refresh_soon()  # so that it begins to wait for the long time
    for name in "abc":
        topology = await store.register(registration(name))
        # Not at_least, which itself makes the watch look.
        await until(lambda version=topology.version: watch.current.version == version)  # type: ignore[misc]
        assert watch.current == topology


async def test_what_a_move_changes_is_told_and_need_not_be_read(
    database: str, store: PostgresTopologyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 3600.0)
    await store.register(registration("a"))
    before = await store.register(registration("b"))
    before = await store.assign(before.version, {1: "a", 2: "a"})
    asked, moves = Asked(database), PostgresMoveStore(database)
    watch = TopologyWatch(asked)
    await watch.start(PATIENCE)
    await until(lambda: asked.told)
    reads = asked.reads
    for version, slot in enumerate((1, 2), before.version):
        await move_slot(moves, version, slot)
        await until(lambda slot=slot: watch.current.owners[slot] == "b")  # type: ignore[misc]
    assert watch.current == await store.get()
    assert watch.current.version == before.version + 2
    assert asked.reads == reads
    for closing in (watch.stop(), moves.close(), asked.close()):
        await closing


async def test_what_was_only_told_is_read_after_a_while(
    database: str, watch: TopologyWatch, store: PostgresTopologyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topology database that failed over, forgot, and has counted up to the same version by another way."""
    monkeypatch.setattr(watch_module, "CONFIRM_SECONDS", 0.0)
    await store.register(registration("a"))
    before = await store.register(registration("b"))
    before = await store.assign(before.version, {1: "a", 2: "a"})
    await at_least(watch, before.version)
    moves = PostgresMoveStore(database)
    await move_slot(moves, before.version, 1)
    await moves.close()
    await until(lambda: watch.current.owners[1] == "b")
    await execute(
        database, "UPDATE slots SET owner = CASE slot WHEN 1 THEN 'a' ELSE 'b' END WHERE slot IN (1, 2)"
    )
    await until(lambda: watch.current.owners[1:3] == ("a", "b"))
    assert watch.current == await store.get()


async def test_what_is_told_while_the_store_is_read_is_not_taken_back(
    database: str, store: PostgresTopologyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer from before a change may arrive after the change was told: no database went back."""
    monkeypatch.setattr(
        watch_module, "RETRY_SECONDS", 3600.0
    )  # after an alarm the store would not be read again
    await store.register(registration("a"))
    topology = await store.register(registration("b"))
    topology = await store.assign(topology.version, {1: "a"})
    slow, moves = Slow(database), PostgresMoveStore(database)
    watch = TopologyWatch(slow)
    await watch.start(PATIENCE)
    await until(lambda: slow.told)
    slow.may_answer.clear()
    slow.has_read.clear()
    watch.refresh_soon()
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE)
    await move_slot(moves, topology.version, 1)
    await until(lambda: watch.current.version == topology.version + 1)
    slow.may_answer.set()
    await watch.at_least(0)
    slow.has_read.clear()
    watch.refresh_soon()
    await asyncio.wait_for(slow.has_read.wait(), PATIENCE)
    assert watch.trouble is None
    assert watch.current == await store.get()
    for closing in (watch.stop(), moves.close(), slow.close()):
        await closing


async def test_a_change_is_found_by_polling(database: str, store: PostgresTopologyStore) -> None:
    deaf = Deaf(database)
    watch = TopologyWatch(deaf)
    assert (await watch.start(PATIENCE)).version == 1
    await store.register(registration("a"))
    await until(lambda: watch.current.version == 2)
    await watch.stop()
    await deaf.close()


async def test_whoever_knows_of_a_version_need_not_wait_for_the_poll(
    database: str, store: PostgresTopologyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 3600.0)
    deaf = Deaf(database)
    watch = TopologyWatch(deaf)
    await watch.start(PATIENCE)
    await store.register(registration("a"))
    assert (await at_least(watch, 2)).version == 2
    assert (await asyncio.wait_for(watch.newer_than(1), PATIENCE)).version == 2
    await watch.stop()
    await deaf.close()


async def test_everybody_who_waits_is_woken(watch: TopologyWatch, store: PostgresTopologyStore) -> None:
    waiting = [asyncio.create_task(watch.at_least(version)) for version in (1, 2, 3, 3)]
    newer = asyncio.create_task(watch.newer_than(2))
    await store.register(registration("a"))
    await asyncio.wait_for(waiting[1], PATIENCE)
    assert not waiting[2].done()
    await store.register(registration("b"))
    for task in (*waiting[2:], newer):
        assert (await asyncio.wait_for(task, PATIENCE)).version == 3
    assert waiting[0].result().version == 1


async def test_the_callback_gets_each_topology_once(database: str, store: PostgresTopologyStore) -> None:
    seen: list[Topology] = []
    watch = TopologyWatch(store, seen.append)
    first = await watch.start(PATIENCE)
    second = await store.register(registration("a"))
    await at_least(watch, 2)
    watch.refresh_soon()
    third = await store.register(registration("b"))
    await at_least(watch, 3)
    await watch.stop()
    assert seen == [first, second, third]


async def test_a_callback_that_fails_does_not_end_the_watch(store: PostgresTopologyStore) -> None:
    def fail(topology: Topology) -> None:
        raise RuntimeError(f"cannot use version {topology.version}")

    watch = TopologyWatch(store, fail)
    await watch.start(PATIENCE)
    await store.register(registration("a"))
    assert (await at_least(watch, 2)).version == 2
    await watch.stop()


async def test_nothing_is_known_before_the_start(store: PostgresTopologyStore) -> None:
    watch = TopologyWatch(store)
    assert watch.latest is None
    with pytest.raises(TopologyUnavailable):
        _ = watch.current


async def test_a_start_without_a_cluster_says_what_to_do(database: str) -> None:
    store = PostgresTopologyStore(database)
    watch = TopologyWatch(store)
    with pytest.raises(ClusterMissing, match="likering cluster init"):
        await watch.start(0.5)
    # Nothing is left running: it can be started again, and now finds what was made meanwhile.
    await create_cluster(database, 8)
    assert (await watch.start(PATIENCE)).version == 1
    await watch.stop()
    await store.close()


async def test_a_start_waits_for_the_cluster_to_be_made(database: str) -> None:
    store = PostgresTopologyStore(database)
    watch = TopologyWatch(store)
    starting = asyncio.create_task(watch.start(PATIENCE))
    await until(lambda: isinstance(watch.trouble, ClusterMissing))
    await create_cluster(database, 8)
    assert (await starting).version == 1
    assert watch.trouble is None
    await watch.stop()
    await store.close()


async def test_a_start_without_a_server_says_why() -> None:
    store = PostgresTopologyStore("postgresql://nobody@127.0.0.1:1/nothing")
    watch = TopologyWatch(store)
    with pytest.raises(TopologyUnavailable, match="The topology database is not reachable") as caught:
        await watch.start(0.5)
    assert "127.0.0.1" in str(caught.value.__cause__)
    await store.close()


async def test_a_start_with_a_frozen_server_ends_in_time(
    database: str, store: PostgresTopologyStore, postgres_server: PostgresServer
) -> None:
    slow = PostgresTopologyStore(database, timeout=PATIENCE)
    with frozen(postgres_server):
        started = time.monotonic()
        with pytest.raises(TopologyUnavailable, match=r"gave no answer within 0\.5 s"):
            await TopologyWatch(slow).start(0.5)
        assert time.monotonic() - started < 1
    await slow.close()


async def test_a_broken_connection_is_made_anew(
    watch: TopologyWatch, store: PostgresTopologyStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both kinds, the listening one included: afterwards a change arrives without polling."""
    await execute(
        database,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await until(lambda: connections(database) == 2)
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 3600.0)
    await until(lambda: listeners(database) == 1)
    topology = await store.register(registration("a"))
    await until(lambda: watch.current.version == topology.version)


def connections(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
        assert row is not None
        return int(row[0])


def listeners(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%FROM cluster'"
            " AND state = 'idle'"
        ).fetchone()
        assert row is not None
        return int(row[0])


async def test_a_frozen_database_leaves_the_last_topology(
    watch: TopologyWatch, store: PostgresTopologyStore, postgres_server: PostgresServer
) -> None:
    topology = await store.register(registration("a"))
    await at_least(watch, topology.version)
    with frozen(postgres_server):
        await until(lambda: watch.trouble is not None)
        assert watch.current == topology
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.newer_than(topology.version), 0.1)
        assert time.monotonic() - started < 1
    await until(lambda: watch.trouble is None)
    after = await store.register(registration("b"))
    assert (await at_least(watch, after.version)) == after


async def test_stopping_does_not_wait_for_a_frozen_database(
    watch: TopologyWatch, postgres_server: PostgresServer
) -> None:
    with frozen(postgres_server):
        watch.refresh_soon()
        await until(lambda: watch.trouble is not None)
        watch.refresh_soon()
        started = time.monotonic()
        await watch.stop()
        assert time.monotonic() - started < 0.5
    assert watch.current.version == 1


async def test_a_lower_version_is_an_alarm_and_no_order(
    watch: TopologyWatch, store: PostgresTopologyStore, database: str
) -> None:
    """A topology database that failed over and forgot."""
    topology = await store.register(registration("a"))
    await at_least(watch, topology.version)
    await execute(database, "UPDATE cluster SET version = 1")
    await until(lambda: watch.trouble is not None)
    assert "went back to version 1 from 2" in str(watch.trouble)
    assert watch.current == topology
    await execute(database, "UPDATE cluster SET version = 5")
    assert (await at_least(watch, 5)).version == 5
    await until(lambda: watch.trouble is None)


async def test_another_cluster_is_an_alarm_and_no_order(watch: TopologyWatch, database: str) -> None:
    known = watch.current
    await execute(database, "UPDATE cluster SET cluster_id = gen_random_uuid(), version = 9")
    await until(lambda: watch.trouble is not None)
    assert f"not of {known.cluster_id}" in str(watch.trouble)
    assert watch.current is known


async def test_a_watch_runs_once(watch: TopologyWatch) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        await watch.start(PATIENCE)


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that the test may end."""
    server = PostgresServer(tmp_path_factory.mktemp("topology"))
    server.start()
    yield server
    server.stop()


async def test_a_killed_database_leaves_the_last_topology(own_server: PostgresServer) -> None:
    """kill -9 of the server; then it comes back, and nothing that was acknowledged is missing."""
    await create_cluster(own_server.dsn, 8)
    store = PostgresTopologyStore(own_server.dsn)
    watch = TopologyWatch(store)
    await watch.start(PATIENCE)
    topology = await store.register(registration("a"))
    topology = await store.assign(topology.version, dict.fromkeys(range(8), "a"))
    await at_least(watch, topology.version)

    await asyncio.to_thread(own_server.kill)
    await until(lambda: watch.trouble is not None)
    assert watch.current == topology

    await asyncio.to_thread(own_server.start)
    await until(lambda: watch.trouble is None)
    assert watch.current == topology
    after = await store.register(registration("b"))
    assert after.version == topology.version + 1
    assert await at_least(watch, after.version) == after
    await watch.stop()
    await store.close()
