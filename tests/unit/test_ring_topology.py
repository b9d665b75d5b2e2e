"""Topology snapshots: immutable, consistent in themselves, and the same bytes for the same content."""

from __future__ import annotations

import dataclasses

import pytest

from likering.ring.topology import Node, NodeState, Topology

A = Node("a", "uuid-a", "10.0.0.1:50061", 2, NodeState.ACTIVE, 4)
B = Node("b", "uuid-b", "10.0.0.2:50061", 1, NodeState.DRAINING, 1)
TOPOLOGY = Topology("c1", 9, 4, {"b": B, "a": A}, ("a", None, "b", "a"), (1, 0, 3, 2))

JSON = (
    b'{"cluster_id":"c1","epochs":[1,0,3,2],"nodes":['
    b'{"address":"10.0.0.1:50061","generation":4,"name":"a","state":"active","uuid":"uuid-a","weight":2},'
    b'{"address":"10.0.0.2:50061","generation":1,"name":"b","state":"draining","uuid":"uuid-b","weight":1}],'
    b'"owners":["a",null,"b","a"],"slot_count":4,"version":9}'
)


def test_the_json_is_canonical() -> None:
    assert TOPOLOGY.to_json() == JSON
    assert dataclasses.replace(TOPOLOGY, nodes={"a": A, "b": B}).to_json() == JSON
    assert Topology.from_json(JSON) == TOPOLOGY


def test_the_json_has_replicas_if_there_are_any() -> None:
    replicated = dataclasses.replace(TOPOLOGY, replicas={"b": ("h:2", "h:1"), "a": ()})
    assert replicated.replicas == {"b": ("h:1", "h:2")}
    assert replicated.to_json() == JSON.replace(
        b'"slot_count"', b'"replicas":{"b":["h:1","h:2"]},"slot_count"'
    )
    assert Topology.from_json(replicated.to_json()) == replicated
    assert replicated != TOPOLOGY


def test_who_owns_what() -> None:
    assert TOPOLOGY.slots_of("a") == {0: 1, 3: 2}
    assert TOPOLOGY.slots_of("b") == {2: 3}
    assert TOPOLOGY.slots_of("nobody") == {}
    assert TOPOLOGY.unowned == (1,)
    assert TOPOLOGY.weights == {"a": 2}
    assert TOPOLOGY.slot_of("p1") == 868 % 4


def test_a_snapshot_never_changes() -> None:
    nodes = {"a": A, "b": B}
    snapshot = dataclasses.replace(TOPOLOGY, nodes=nodes)
    del nodes["a"]
    assert list(snapshot.nodes) == ["a", "b"]
    with pytest.raises(TypeError):
        del snapshot.nodes["a"]  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.version = 10  # type: ignore[misc]


def test_a_new_owner_makes_the_next_version() -> None:
    after = TOPOLOGY.with_owner(TOPOLOGY.version + 1, 2, "a", 4)
    assert (after.owners[2], after.epochs[2]) == ("a", 4)
    assert TOPOLOGY.owners[2] == "b"
    back = after.with_owner(after.version + 1, 2, "b", TOPOLOGY.epochs[2])
    assert dataclasses.replace(back, version=TOPOLOGY.version) == TOPOLOGY


@pytest.mark.parametrize(
    ("versions_on", "slot", "owner"), [(2, 2, "a"), (1, 4, "a"), (1, -1, "a"), (1, 2, "x")]
)
def test_what_does_not_follow_is_refused(versions_on: int, slot: int, owner: str) -> None:
    with pytest.raises(ValueError, match=r"does not follow|unknown nodes"):
        TOPOLOGY.with_owner(TOPOLOGY.version + versions_on, slot, owner, 4)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"slot_count": 3}, "power of two"),
        ({"owners": ("a", "b")}, "4 slots with 2 owners and 4 epochs"),
        ({"replicas": {"x": ("h:1",)}}, "replicas of unknown nodes: x"),
        ({"epochs": (1,)}, "4 slots with 4 owners and 1 epochs"),
        ({"owners": ("a", None, "b", "x")}, "unknown nodes: x"),
        ({"epochs": (1, 1, 3, 2)}, "Slot 1 has owner None at epoch 1"),
        ({"epochs": (0, 0, 3, 2)}, "Slot 0 has owner 'a' at epoch 0"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOPOLOGY, **part)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"nothing",
        JSON.replace(b'"active"', b'"gone"'),
        JSON[:-1],
        JSON[:-1] + b',"replicas":5}',
    ],
)
def test_other_bytes_are_no_topology(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of json, of the enum, or ours
        Topology.from_json(data)
