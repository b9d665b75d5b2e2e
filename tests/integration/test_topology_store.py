"""The topology in Postgres: who may change it, what readers see, and that nobody waits for a frozen database."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing

import psycopg
import pytest

from likering.dev.postgres import PostgresServer
from likering.errors import LikeringError, TopologyChanged, TopologyUnavailable
from likering.ring.hashing import MAX_SLOT_COUNT
from likering.ring.plan import Move
from likering.ring.topology import Topology
from likering.topology.moves import MoveChanged, MoveState
from likering.topology.postgres import (
    CHANNEL,
    SCHEMA,
    PostgresTopologyStore,
    create_cluster,
)
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import (
    TopologyChange,
)
from tests.integration.topology_database import SLOTS, execute
from tests.parts.frozen import frozen
from tests.parts.registration import registration


async def test_an_unchanged_topology_is_the_same_object(stores: list[PostgresTopologyStore]) -> None:
    first = await stores[0].get()
    assert await stores[0].get(first) is first
    await stores[1].register(registration("a"))
    second = await stores[0].get(first)
    assert second.version == 2
    assert await stores[0].get(second) is second


async def test_the_largest_resize_is_cancelled(database: str) -> None:
    """Though a call has its time, and what has been committed goes on."""
    await create_cluster(database, MAX_SLOT_COUNT)
    store, moves = PostgresTopologyStore(database), PostgresMoveStore(database)
    try:
        await store.register(registration("a"))
        topology = await store.register(registration("b"))
        topology = await store.assign(topology.version, dict.fromkeys(range(MAX_SLOT_COUNT), "a"))
        planned = [Move(slot, "a", "b", 1) for slot in range(MAX_SLOT_COUNT)]
        await moves.apply(topology.version, planned, {}, "test")
        first, *others = await moves.moves()
        assert not await moves.begin(first, "b")
        for state in (MoveState.CATCHING_UP, MoveState.FREEZING):
            first = await moves.advance(await moves.move(first.move), state, "b")
        first = await moves.commit(first, MoveState.ACTIVATING, "b", {})
        now = await moves.cancel([move.move for move in (*others, first)], "operator")
        assert [move.move for move in now] == [move.move for move in (first, *others)]
        assert Counter(move.state for move in now) == {
            MoveState.ACTIVATING: 1,
            MoveState.CANCELLED: MAX_SLOT_COUNT - 1,
        }
        *_, event = await moves.events([others[-1].move])
        assert (event.state, event.who) == (MoveState.CANCELLED, "operator")
        with pytest.raises(MoveChanged, match=f"no move {MAX_SLOT_COUNT + 1}"):
            await moves.cancel([first.move, MAX_SLOT_COUNT + 1], "operator")
    finally:
        await moves.close()
        await store.close()


async def test_the_first_assignment(store: PostgresTopologyStore) -> None:
    await store.register(registration("a"))
    topology = await store.register(registration("b"))
    topology = await store.assign(topology.version, {0: "a", 7: "b"})
    assert topology.version == 4
    assert topology.owners == ("a", None, None, None, None, None, None, "b")
    assert topology.epochs == (1, 0, 0, 0, 0, 0, 0, 1)
    topology = await store.assign(4, dict.fromkeys(range(1, 7), "a"))
    assert topology.unowned == ()


async def test_assigning_from_an_old_version_is_a_conflict(store: PostgresTopologyStore) -> None:
    old = await store.register(registration("a"))
    new = await store.register(registration("b"))
    with pytest.raises(TopologyChanged, match="at version 3 by now, not at 2"):
        await store.assign(old.version, {0: "a"})
    assert await store.get() == new


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ({0: "a", 1: "a"}, "Only 1 of the 2 slots"),
        ({1: "a", SLOTS: "a"}, "Only 1 of the 2 slots"),
        ({1: "gone"}, "Not an active node of the cluster: gone"),
        ({1: "drained"}, "Not an active node of the cluster: drained"),
    ],
)
async def test_an_assignment_is_all_or_nothing(
    store: PostgresTopologyStore, database: str, owners: dict[int, str], message: str
) -> None:
    await store.register(registration("drained"))
    topology = await store.register(registration("a"))
    await execute(database, "UPDATE nodes SET state = 'draining' WHERE name = 'drained'")
    topology = await store.assign(topology.version, {0: "a"})
    with pytest.raises(ValueError, match=message):
        await store.assign(topology.version, owners)
    assert await store.get() == topology


async def test_of_many_that_assign_one_wins(stores: list[PostgresTopologyStore]) -> None:
    for number in range(5):
        topology = await stores[0].register(registration(f"n{number}"))
    results = await asyncio.gather(
        *(
            store.assign(topology.version, dict.fromkeys(range(SLOTS), f"n{number}"))
            for number, store in enumerate(stores)
        ),
        return_exceptions=True,
    )
    winners = [number for number, result in enumerate(results) if isinstance(result, Topology)]
    assert len(winners) == 1
    assert sum(isinstance(result, TopologyChanged) for result in results) == 4
    assert (await stores[0].get()).owners == (f"n{winners[0]}",) * SLOTS


async def test_every_change_has_a_version_of_its_own(stores: list[PostgresTopologyStore]) -> None:
    """Registrations race; a reader meanwhile sees a node exactly from its version on."""
    calls = [
        store.register(registration(f"n{number}-{name}"))
        for name in "abcd"
        for number, store in enumerate(stores)
    ]
    reader = PostgresTopologyStore(stores[0]._conninfo, timeout=20)
    seen: list[Topology] = []

    async def read() -> None:
        while not seen or seen[-1].version < 1 + len(calls):
            seen.append(await reader.get())

    await asyncio.gather(read(), *calls)
    await reader.close()
    for topology in seen:
        assert len(topology.nodes) == topology.version - 1
    assert [topology.version for topology in seen] == sorted(topology.version for topology in seen)


async def test_changes_tell_the_present_version_and_each_new_one(stores: list[PostgresTopologyStore]) -> None:
    await stores[0].register(registration("a"))
    async with aclosing(stores[1].changes()) as changes:
        assert await anext(changes) == TopologyChange(2)
        topology = await stores[0].register(registration("b"))
        assert await anext(changes) == TopologyChange(3)
        await stores[0].register(registration("b"))  # changes nothing
        await stores[0].assign(topology.version, {0: "a"})
        assert await anext(changes) == TopologyChange(4)


async def test_a_notification_carries_only_the_version(store: PostgresTopologyStore, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(f"LISTEN {CHANNEL}".encode())
        await store.register(registration("a"))
        assert [notify.payload async for notify in connection.notifies(timeout=10, stop_after=1)] == ["2"]


async def test_a_refused_change_tells_nobody(stores: list[PostgresTopologyStore]) -> None:
    async with aclosing(stores[1].changes()) as changes:
        assert await anext(changes) == TopologyChange(1)
        with pytest.raises(TopologyChanged):
            await stores[0].assign(7, {0: "a"})
        await stores[0].register(registration("a"))
        assert await anext(changes) == TopologyChange(2)


async def test_changes_end_with_their_connection(store: PostgresTopologyStore, database: str) -> None:
    changes = store.changes()
    assert await anext(changes) == TopologyChange(1)
    waiting = asyncio.ensure_future(anext(changes))
    await execute(
        database,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with pytest.raises(TopologyUnavailable, match="not reachable"):
        await waiting


async def test_closing_ends_changes(store: PostgresTopologyStore) -> None:
    changes = store.changes()
    assert await anext(changes) == TopologyChange(1)
    waiting = asyncio.ensure_future(anext(changes))
    await store.close()
    with pytest.raises(TopologyUnavailable):
        await waiting


@pytest.mark.parametrize("connected", [True, False])
async def test_a_frozen_database_is_given_up_at_the_deadline(
    database: str, cluster_id: str, postgres_server: PostgresServer, connected: bool
) -> None:
    store = PostgresTopologyStore(database, timeout=0.5)
    try:
        if connected:
            await store.get()
        with frozen(postgres_server):
            for call in (
                store.get(),
                store.register(registration("a")),
                store.assign(1, {}),
                anext(store.changes()),
            ):
                started = time.monotonic()
                with pytest.raises(TopologyUnavailable, match=r"did not answer within 0\.5 s"):
                    await call
                assert time.monotonic() - started < 1
        assert (await store.get()).cluster_id == cluster_id
    finally:
        await store.close()


async def test_a_process_that_stops_within_a_change_blocks_the_others_for_its_timeout_only(
    database: str, cluster_id: str, stores: list[PostgresTopologyStore]
) -> None:
    """It holds the cluster's row; the server ends its transaction."""
    stopped = PostgresTopologyStore(database, timeout=0.5)
    async with await psycopg.AsyncConnection.connect(stopped._conninfo) as connection:
        await connection.execute("SELECT 1 FROM cluster FOR UPDATE")
        assert (await stores[0].register(registration("a"))).version == 2
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            await connection.execute("SELECT 1")
    await stopped.close()


async def test_errors_name_no_host_and_no_sql(database: str) -> None:
    store = PostgresTopologyStore("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(TopologyUnavailable) as caught:
        await store.get()
    await store.close()
    assert caught.value.message == "The topology database is not reachable"
    assert "127.0.0.1" in str(caught.value.__cause__)
    assert isinstance(caught.value, LikeringError)


async def test_a_user_without_rights_gets_a_clear_error(database: str, cluster_id: str) -> None:
    await execute(database, f"CREATE ROLE reader_of_{cluster_id[:8]}")
    await execute(database, f"GRANT USAGE ON SCHEMA {SCHEMA} TO reader_of_{cluster_id[:8]}")
    store = PostgresTopologyStore(f"{database}&options=-crole%3Dreader_of_{cluster_id[:8]}")
    try:
        with pytest.raises(TopologyUnavailable, match="refuses its user what is needed"):
            await store.get()
    finally:
        await store.close()
        await execute(database, f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM reader_of_{cluster_id[:8]}")
        await execute(database, f"DROP ROLE reader_of_{cluster_id[:8]}")


def test_the_address_must_be_a_connection_string() -> None:
    with pytest.raises(ValueError, match="not a Postgres connection string"):
        PostgresTopologyStore("localhost:5432")
