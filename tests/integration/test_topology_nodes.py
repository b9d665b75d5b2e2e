"""Nodes and their replicas in the topology database: what they may say of themselves, who is refused, who may go."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from typing import Any

import pytest

from likering.errors import NodeOwnsSlots, WrongCluster
from likering.ring.plan import Move
from likering.ring.topology import Node, NodeState
from likering.topology.postgres import (
    PostgresTopologyStore,
)
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.store import (
    NodeRefused,
    NodeRegistration,
    NodeSuperseded,
    NodeUnknown,
    ReplicaUnknown,
    TopologyChange,
)
from tests.integration.topology_database import SLOTS, execute
from tests.parts.registration import registration


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


async def test_a_replica_is_registered_and_forgotten(store: PostgresTopologyStore, cluster_id: str) -> None:
    await store.register(registration("a"))
    before = await store.register(registration("b"))
    one = await store.register_replica(cluster_id, "a", "replica-2:1")
    both = await store.register_replica(cluster_id, "a", "replica-1:1")
    assert (one.version, both.version) == (before.version + 1, before.version + 2)
    assert both.replicas == {"a": ("replica-1:1", "replica-2:1")}
    assert await store.register_replica(cluster_id, "a", "replica-1:1") == both
    moved = await store.register_replica(cluster_id, "b", "replica-2:1")
    assert moved.replicas == {"a": ("replica-1:1",), "b": ("replica-2:1",)}
    after = await store.remove_replica("replica-2:1")
    assert (after.version, after.replicas) == (moved.version + 1, {"a": ("replica-1:1",)})
    assert await store.get() == after


async def test_readers_hear_of_a_replica(store: PostgresTopologyStore, cluster_id: str) -> None:
    known = await store.register(registration("a"))
    async with aclosing(store.changes()) as changes:
        assert await anext(changes) == TopologyChange(known.version)
        await store.register_replica(cluster_id, "a", "replica:1")
        assert await anext(changes) == TopologyChange(known.version + 1)
    assert (await store.get(known)).replicas == {"a": ("replica:1",)}


async def test_a_replica_goes_with_its_node(store: PostgresTopologyStore, cluster_id: str) -> None:
    await store.register(registration("a"))
    await store.register_replica(cluster_id, "a", "replica:1")
    assert not (await store.remove_node("a")).replicas


async def test_a_replica_that_cannot_be_is_refused(store: PostgresTopologyStore, cluster_id: str) -> None:
    topology = await store.register(registration("a"))
    with pytest.raises(NodeUnknown, match="No node x has registered; known are: a"):
        await store.register_replica(cluster_id, "x", "replica:1")
    with pytest.raises(WrongCluster, match="belongs to cluster 5"):
        await store.register_replica("5", "a", "replica:1")
    with pytest.raises(ValueError, match="host:port"):
        await store.register_replica(cluster_id, "a", "replica")
    for address in ("replica:1", "\0"):
        with pytest.raises(ReplicaUnknown, match="known are: none"):
            await store.remove_replica(address)
    assert await store.get() == topology


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


async def test_a_node_of_another_cluster_is_refused(store: PostgresTopologyStore, cluster_id: str) -> None:
    other = str(uuid.uuid4())
    with pytest.raises(
        WrongCluster,
        match=f"Node a belongs to cluster {other}, but the topology database is of cluster {cluster_id}",
    ):
        await store.register(registration("a", cluster_id=other))
    assert (await store.get()).version == 1
    assert (await store.register(registration("a", cluster_id=cluster_id))).version == 2


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
