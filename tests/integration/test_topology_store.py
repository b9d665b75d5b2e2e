"""The topology in Postgres: who may change it, what readers see, and that nobody waits for a frozen database."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import psycopg
import pytest

from likering.dev.postgres import PostgresServer
from likering.errors import LikeringError, NodeOwnsSlots, TopologyChanged, TopologyUnavailable, WrongCluster
from likering.ring.hashing import MAX_SLOT_COUNT
from likering.ring.plan import Move
from likering.ring.topology import Node, NodeState, Topology
from likering.topology.moves import MoveChanged, MoveState
from likering.topology.postgres import (
    CHANNEL,
    SCHEMA,
    PostgresTopologyStore,
    create_cluster,
    upgrade_cluster,
)
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import (
    ClusterExists,
    ClusterMissing,
    NodeRefused,
    NodeRegistration,
    NodeSuperseded,
    NodeUnknown,
    ReplicaUnknown,
    SchemaOutdated,
    TopologyChange,
)
from tests.parts.frozen import frozen
from tests.parts.registration import registration

SLOTS = 8


@pytest.fixture
async def cluster(database: str) -> str:
    """The id of a cluster without nodes."""
    return await create_cluster(database, SLOTS)


@pytest.fixture
async def stores(database: str, cluster: str) -> AsyncIterator[list[PostgresTopologyStore]]:
    """Stores of five processes, so to say."""
    async with AsyncExitStack() as stack:
        stores = [PostgresTopologyStore(database, timeout=20) for _ in range(5)]
        for store in stores:
            stack.push_async_callback(store.close)
        yield stores


@pytest.fixture
def store(stores: list[PostgresTopologyStore]) -> PostgresTopologyStore:
    return stores[0]


async def execute(database: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(
        database, autocommit=True, options=f"-csearch_path={SCHEMA}"
    ) as connection:
        cursor = await connection.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []


async def test_a_new_cluster_has_slots_and_no_nodes(cluster: str, store: PostgresTopologyStore) -> None:
    assert await store.get() == Topology(cluster, 1, SLOTS, {}, (None,) * SLOTS, (0,) * SLOTS)
    assert str(uuid.UUID(cluster)) == cluster


async def test_a_database_holds_one_cluster(database: str, cluster: str) -> None:
    with pytest.raises(ClusterExists, match=f"{cluster} with 8 slots"):
        await create_cluster(database, 64)


async def test_of_many_that_make_a_cluster_one_does(database: str) -> None:
    results = await asyncio.gather(
        *(create_cluster(database, SLOTS) for _ in range(5)), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, str)]
    assert len(made) == 1
    assert sum(isinstance(result, ClusterExists) for result in results) == 4
    assert await execute(database, "SELECT cluster_id::text FROM cluster") == [(made[0],)]


async def test_a_number_of_slots_that_is_no_power_of_two_makes_nothing(database: str) -> None:
    with pytest.raises(ValueError, match="power of two"):
        await create_cluster(database, 100)
    assert await execute(database, f"SELECT to_regnamespace('{SCHEMA}')") == [(None,)]


@pytest.mark.parametrize("emptied", [False, True])
async def test_without_a_cluster_every_call_says_so(database: str, emptied: bool) -> None:
    if emptied:
        await create_cluster(database, SLOTS)
        await execute(database, "DELETE FROM cluster")
    store = PostgresTopologyStore(database)
    try:
        for call in (
            store.get(),
            store.register(registration("a")),
            store.assign(1, {0: "a"}),
            store.set_node("a", weight=2),
            store.remove_node("a"),
            store.register_replica("", "a", "replica:1"),
            store.remove_replica("replica:1"),
            anext(store.changes()),
        ):
            with pytest.raises(ClusterMissing, match="likering cluster init"):
                await call
    finally:
        await store.close()


async def test_an_unchanged_topology_is_the_same_object(stores: list[PostgresTopologyStore]) -> None:
    first = await stores[0].get()
    assert await stores[0].get(first) is first
    await stores[1].register(registration("a"))
    second = await stores[0].get(first)
    assert second.version == 2
    assert await stores[0].get(second) is second


async def test_a_node_registers_itself(store: PostgresTopologyStore, database: str) -> None:
    given = registration("a", address="10.0.0.1:50061", weight=3, generation=5)
    topology = await store.register(given)
    assert topology.nodes == {"a": Node("a", given.uuid, "10.0.0.1:50061", 3, NodeState.ACTIVE, 5)}
    assert topology.version == 2
    assert topology == await store.get()
    assert await execute(database, "SELECT system_identifier FROM nodes") == [(given.system_identifier,)]


async def test_registering_the_same_again_changes_nothing(store: PostgresTopologyStore) -> None:
    first = await store.register(registration("a"))
    assert await store.register(registration("a")) == first


@pytest.mark.parametrize(
    "change",
    [{"address": "other:1"}, {"generation": 2}, {"system_identifier": "7000000000000000002"}],
)
async def test_what_a_node_says_of_itself_may_change(
    store: PostgresTopologyStore, database: str, change: dict[str, Any]
) -> None:
    before = await store.register(registration("a"))
    after = await store.register(registration("a", **change))
    assert after.version == before.version + 1
    (column, value), *_ = change.items()
    assert await execute(database, f"SELECT {column} FROM nodes") == [(value,)]


async def test_registering_again_keeps_state_and_slots(store: PostgresTopologyStore, database: str) -> None:
    topology = await store.register(registration("a"))
    await store.assign(topology.version, {0: "a"})
    await execute(database, "UPDATE nodes SET state = 'draining'")
    topology = await store.register(registration("a", generation=2))
    assert topology.nodes["a"].state is NodeState.DRAINING
    assert topology.slots_of("a") == {0: 1}


async def test_only_the_first_registration_sets_the_weight(store: PostgresTopologyStore) -> None:
    first = await store.register(registration("a", weight=3))
    assert await store.register(registration("a", weight=7)) == first
    await store.set_node("a", weight=5)
    topology = await store.register(registration("a", weight=3, generation=2))
    assert (topology.nodes["a"].weight, topology.nodes["a"].generation) == (5, 2)


async def test_a_nodes_weight_and_state_are_set(store: PostgresTopologyStore) -> None:
    before = await store.register(registration("a"))
    after = await store.set_node("a", weight=4)
    assert (after.version, after.nodes["a"].weight) == (before.version + 1, 4)
    assert after.nodes["a"].state is NodeState.ACTIVE
    after = await store.set_node("a", state=NodeState.DRAINING)
    assert (after.nodes["a"].weight, after.nodes["a"].state) == (4, NodeState.DRAINING)
    assert await store.set_node("a", weight=4, state=NodeState.DRAINING) == after
    assert await store.set_node("a") == after
    with pytest.raises(ValueError, match="weight is from 1 to 1000, not 0"):
        await store.set_node("a", weight=0)


async def test_a_node_without_slots_and_moves_is_removed(store: PostgresTopologyStore) -> None:
    await store.register(registration("a"))
    before = await store.register(registration("b"))
    after = await store.remove_node("b")
    assert after.version == before.version + 1
    assert list(after.nodes) == ["a"]
    assert list((await store.register(registration("b"))).nodes) == ["a", "b"]


async def test_a_node_that_owns_a_slot_stays(store: PostgresTopologyStore) -> None:
    topology = await store.register(registration("a"))
    topology = await store.assign(topology.version, {0: "a", 1: "a"})
    with pytest.raises(NodeOwnsSlots, match="Node a owns 2 of the slots"):
        await store.remove_node("a")
    assert await store.get() == topology


async def test_a_node_stays_until_its_moves_have_ended(store: PostgresTopologyStore, database: str) -> None:
    """Those that have are kept with its name."""
    await store.register(registration("a"))
    topology = await store.register(registration("b"))
    topology = await store.assign(topology.version, dict.fromkeys(range(SLOTS), "a"))
    moves = PostgresMoveStore(database)
    try:
        await moves.apply(topology.version, [Move(3, "a", "b", 1), Move(4, "a", "b", 1)], {}, "test")
        with pytest.raises(NodeOwnsSlots, match="move 1 of slot 3, which is planned and 1 more"):
            await store.remove_node("b")
        await moves.cancel([1], "test")
        with pytest.raises(NodeOwnsSlots, match="move 2 of slot 4, which is planned:"):
            await store.remove_node("b")
        await moves.cancel([2], "test")
        assert list((await store.remove_node("b")).nodes) == ["a"]
        assert [move.target for move in await moves.moves(ended=True)] == ["b", "b"]
    finally:
        await moves.close()


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


async def test_an_unknown_node_is_named_with_those_known(store: PostgresTopologyStore) -> None:
    with pytest.raises(NodeUnknown, match="No node x has registered; known are: none"):
        await store.remove_node("x")
    await store.register(registration("a"))
    topology = await store.register(registration("b"))
    for call in (store.set_node("x", weight=2), store.remove_node("x")):
        with pytest.raises(NodeUnknown, match="No node x has registered; known are: a, b"):
            await call
    for call in (store.set_node("a\0", weight=2), store.remove_node("\0")):
        with pytest.raises(NodeUnknown, match="has registered; known are: a, b"):
            await call
    assert await store.get() == topology


async def test_a_replica_is_registered_and_forgotten(store: PostgresTopologyStore, cluster: str) -> None:
    await store.register(registration("a"))
    before = await store.register(registration("b"))
    one = await store.register_replica(cluster, "a", "replica-2:1")
    both = await store.register_replica(cluster, "a", "replica-1:1")
    assert (one.version, both.version) == (before.version + 1, before.version + 2)
    assert both.replicas == {"a": ("replica-1:1", "replica-2:1")}
    assert await store.register_replica(cluster, "a", "replica-1:1") == both
    moved = await store.register_replica(cluster, "b", "replica-2:1")
    assert moved.replicas == {"a": ("replica-1:1",), "b": ("replica-2:1",)}
    after = await store.remove_replica("replica-2:1")
    assert (after.version, after.replicas) == (moved.version + 1, {"a": ("replica-1:1",)})
    assert await store.get() == after


async def test_readers_hear_of_a_replica(store: PostgresTopologyStore, cluster: str) -> None:
    known = await store.register(registration("a"))
    async with aclosing(store.changes()) as changes:
        assert await anext(changes) == TopologyChange(known.version)
        await store.register_replica(cluster, "a", "replica:1")
        assert await anext(changes) == TopologyChange(known.version + 1)
    assert (await store.get(known)).replicas == {"a": ("replica:1",)}


async def test_a_replica_goes_with_its_node(store: PostgresTopologyStore, cluster: str) -> None:
    await store.register(registration("a"))
    await store.register_replica(cluster, "a", "replica:1")
    assert not (await store.remove_node("a")).replicas


async def test_a_replica_that_cannot_be_is_refused(store: PostgresTopologyStore, cluster: str) -> None:
    topology = await store.register(registration("a"))
    with pytest.raises(NodeUnknown, match="No node x has registered; known are: a"):
        await store.register_replica(cluster, "x", "replica:1")
    with pytest.raises(WrongCluster, match="belongs to cluster 5"):
        await store.register_replica("5", "a", "replica:1")
    with pytest.raises(ValueError, match="host:port"):
        await store.register_replica(cluster, "a", "replica")
    for address in ("replica:1", "\0"):
        with pytest.raises(ReplicaUnknown, match="known are: none"):
            await store.remove_replica(address)
    assert await store.get() == topology


async def test_a_cluster_of_an_older_version_is_upgraded(store: PostgresTopologyStore, database: str) -> None:
    topology = await store.register(registration("a"))
    await execute(database, "DROP TABLE move_events, moves, resizes, move_limits, replicas")
    await execute(database, "DELETE FROM schema_migrations WHERE version >= 2")
    moves = PostgresMoveStore(database)
    try:
        for call in (store.get(), store.remove_node("a"), moves.moves(), moves.limits(), moves.resizes(1)):
            with pytest.raises(SchemaOutdated, match="likering cluster upgrade"):
                await call
        assert await upgrade_cluster(database) == [
            "0002_moves",
            "0003_quieter_moves",
            "0004_replicas",
            "0005_verification",
        ]
        assert await upgrade_cluster(database) == []
        assert await moves.moves() == []
    finally:
        await moves.close()
    assert await store.get() == topology


async def test_where_there_is_no_cluster_there_is_nothing_to_upgrade(database: str) -> None:
    with pytest.raises(ClusterMissing):
        await upgrade_cluster(database)
    assert await execute(database, f"SELECT to_regnamespace('{SCHEMA}')") == [(None,)]


async def test_an_older_generation_is_refused(store: PostgresTopologyStore) -> None:
    topology = await store.register(registration("a", generation=3))
    with pytest.raises(NodeSuperseded, match="generation 3, this one has 2"):
        await store.register(registration("a", generation=2, address="zombie:1"))
    assert await store.get() == topology


@pytest.mark.parametrize("generation", [0, 9])
async def test_a_name_belongs_to_one_database(store: PostgresTopologyStore, generation: int) -> None:
    topology = await store.register(registration("a"))
    with pytest.raises(
        NodeRefused, match=r"The name a belongs to another node .* choose another name"
    ) as caught:
        await store.register(registration("a", uuid=str(uuid.uuid4()), generation=generation))
    assert not isinstance(caught.value, NodeSuperseded)
    assert await store.get() == topology


async def test_a_database_has_one_name(store: PostgresTopologyStore) -> None:
    topology = await store.register(registration("a"))
    with pytest.raises(NodeRefused, match="is registered as node a and cannot become b"):
        await store.register(registration("b", uuid=registration("a").uuid))
    assert await store.get() == topology


async def test_a_node_of_another_cluster_is_refused(store: PostgresTopologyStore, cluster: str) -> None:
    other = str(uuid.uuid4())
    with pytest.raises(
        WrongCluster,
        match=f"Node a belongs to cluster {other}, but the topology database is of cluster {cluster}",
    ):
        await store.register(registration("a", cluster_id=other))
    assert (await store.get()).version == 1
    assert (await store.register(registration("a", cluster_id=cluster))).version == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"name": "ü"}, "name"),
        ({"weight": 0}, "weight is from 1 to 1000, not 0"),
        ({"weight": 1001}, "weight"),
        ({"address": "host"}, "host:port"),
        ({"address": ":1"}, "host:port"),
        ({"address": "host:0"}, "host:port"),
        ({"address": "host:65536"}, "host:port"),
        ({"address": "host:x"}, "host:port"),
        ({"generation": -1}, "generation"),
        ({"uuid": "nothing"}, "UUID"),
    ],
)
def test_a_registration_that_no_node_can_have_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registration(**{"name": "a", **wrong})


def test_a_uuid_has_one_spelling() -> None:
    plain: NodeRegistration = registration("a")
    assert registration("a", uuid=plain.uuid.upper().replace("-", "")) == plain


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
    database: str, cluster: str, postgres_server: PostgresServer, connected: bool
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
        assert (await store.get()).cluster_id == cluster
    finally:
        await store.close()


async def test_a_process_that_stops_within_a_change_blocks_the_others_for_its_timeout_only(
    database: str, cluster: str, stores: list[PostgresTopologyStore]
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


async def test_a_user_without_rights_gets_a_clear_error(database: str, cluster: str) -> None:
    await execute(database, f"CREATE ROLE reader_of_{cluster[:8]}")
    await execute(database, f"GRANT USAGE ON SCHEMA {SCHEMA} TO reader_of_{cluster[:8]}")
    store = PostgresTopologyStore(f"{database}&options=-crole%3Dreader_of_{cluster[:8]}")
    try:
        with pytest.raises(TopologyUnavailable, match="refuses its user what is needed"):
            await store.get()
    finally:
        await store.close()
        await execute(database, f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM reader_of_{cluster[:8]}")
        await execute(database, f"DROP ROLE reader_of_{cluster[:8]}")


def test_the_address_must_be_a_connection_string() -> None:
    with pytest.raises(ValueError, match="not a Postgres connection string"):
        PostgresTopologyStore("localhost:5432")
