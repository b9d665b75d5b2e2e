"""The cluster in the topology database: made once, upgraded when it is old, and missed where there is none."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from likering.ring.topology import Topology
from likering.topology.postgres import (
    SCHEMA,
    PostgresTopologyStore,
    create_cluster,
    upgrade_cluster,
)
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import (
    ClusterExists,
    ClusterMissing,
    SchemaOutdated,
)
from tests.integration.topology_database import SLOTS, execute
from tests.parts.registration import registration


async def test_a_new_cluster_has_slots_and_no_nodes(cluster_id: str, store: PostgresTopologyStore) -> None:
    assert await store.get() == Topology(cluster_id, 1, SLOTS, {}, (None,) * SLOTS, (0,) * SLOTS)
    assert str(uuid.UUID(cluster_id)) == cluster_id


async def test_a_database_holds_one_cluster(database: str, cluster_id: str) -> None:
    with pytest.raises(ClusterExists, match=f"{cluster_id} with 8 slots"):
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
