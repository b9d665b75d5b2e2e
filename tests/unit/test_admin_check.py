"""What a check finds: contradictions between topology and databases, and what moves have left behind."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from likering.admin.v1 import ring_service_pb2 as api
from likering.ring.topology import Node, NodeState, Topology
from likering.shard.v1 import shard_service_pb2 as shard
from likering.topology.moves import MoveState, SlotMove
from router.admin.check import Check
from tests.parts.moves import slot_move


def topology(owners: str = "aaba", epochs: tuple[int, ...] = (1, 1, 1, 1)) -> Topology:
    nodes = {name: Node(name, name, "host:1", 1, NodeState.ACTIVE, 1) for name in "ab"}
    return Topology("cluster", 9, len(owners), nodes, tuple(owners), epochs)


def held(**slots: str) -> shard.GetInventoryResponse:
    """``s3="frozen 2"``: slot 3 is frozen at epoch 2; epoch 1 where none is given."""
    response = shard.GetInventoryResponse()
    for name, text in slots.items():
        state, _, epoch = text.partition(" ")
        response.slots.add(slot=int(name[1:]), state=state, epoch=int(epoch or 1))
    return response


A = {"s0": "owner", "s1": "owner", "s3": "owner"}
B = {"s2": "owner"}


def found(
    a: shard.GetInventoryResponse | None = None,
    b: shard.GetInventoryResponse | None = None,
    *,
    at: Topology | None = None,
    moves: Iterable[SlotMove] = (),
) -> list[api.Finding]:
    inventories = {"a": a or held(**A), "b": b or held(**B)}
    return Check(at or topology(), moves, inventories).findings()


def test_nothing_is_found_where_all_is_well() -> None:
    assert found() == []
    assert found(held(**A, s2="moved"), moves=[slot_move(MoveState.COPYING)]) == []


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (
            {"s0": "owner", "s1": "owner"},
            "slot 3 is this node's at epoch 1, but its database does not hold it",
        ),
        ({**A, "s3": "owner 0"}, "slot 3 is at epoch 1 in the topology, but at 0 in the database"),
        ({**A, "s3": "moved"}, "slot 3 is this node's at epoch 1, but its database has it as moved"),
        ({**A, "s3": "frozen"}, "slot 3 is frozen at epoch 1, but no move is freezing it"),
    ],
)
def test_an_owner_whose_database_says_otherwise(rows: dict[str, str], what: str) -> None:
    (finding,) = found(held(**rows))
    assert (finding.node, finding.what, finding.transient) == ("a", what, False)
    assert "restart it" in finding.remedy


def test_two_owners_are_never_transient() -> None:
    move = slot_move(MoveState.ACTIVE)
    at = topology("aabb", (1, 1, 1, 2))
    (finding,) = found(held(**A), held(**B, s3="owner 2"), at=at, moves=[move])
    assert finding.node == "a"
    assert finding.what == (
        "the database has this node as the owner of slot 3 at epoch 1, but in the topology it is node b"
    )
    assert not finding.transient
    assert finding.remedy.startswith("stop the node's process")


def test_a_slot_that_a_move_freezes_is_as_it_should_be() -> None:
    assert found(held(**{**A, "s3": "frozen"}), moves=[slot_move(MoveState.FREEZING)]) == []


@pytest.mark.parametrize("state", [MoveState.ABORTED, MoveState.PLANNED])
def test_a_slot_that_thaws_after_a_freeze_that_was_given_up_is_transient(state: MoveState) -> None:
    (finding,) = found(held(**{**A, "s3": "frozen"}), moves=[slot_move(state)])
    assert finding.transient


@pytest.mark.parametrize("state", [MoveState.COMMITTED, MoveState.ACTIVATING])
def test_a_target_that_takes_its_slot_up(state: MoveState) -> None:
    (finding,) = found(
        held(**{**A, "s3": "frozen"}), at=topology("aabb", (1, 1, 1, 2)), moves=[slot_move(state)]
    )
    assert (finding.node, finding.transient) == ("b", True)
    assert finding.remedy == "wait for the move 7 of slot 3 from a to b"


def test_a_slot_that_stays_frozen_at_its_old_owner() -> None:
    at = topology("aabb", (1, 1, 1, 2))
    frozen, taken = held(**{**A, "s3": "frozen"}), held(**B, s3="owner 2")
    assert found(frozen, taken, at=at, moves=[slot_move(MoveState.ACTIVE)]) == []
    (finding,) = found(frozen, taken, at=at, moves=[slot_move(MoveState.MOVED)])
    assert finding.what == "slot 3 is frozen at epoch 1, but no move has frozen it and node b owns it"


def test_what_belongs_to_a_move_under_way_goes_with_it() -> None:
    source, target = held(**A), held(**B)
    source.publications.append("likering_s3_m7_a2")
    source.replication_slots.append("likering_s3_m7_a2")
    target.subscriptions.append("likering_s3_m7_a2")
    target.tables.extend(("edges_s3", "posts_s3", "edges_s3_m7_a2"))
    findings = found(source, target, moves=[slot_move(MoveState.CATCHING_UP, attempt=2)])
    assert len(findings) == 6
    assert all(finding.transient for finding in findings)
    assert {finding.remedy for finding in findings} == {"nothing: it goes with its move"}


@pytest.mark.parametrize(
    ("moves", "owner"),
    [
        ([], "move 7, which has ended"),
        (
            [slot_move(MoveState.CATCHING_UP, attempt=3)],
            "attempt 2 of move 7 of slot 3 from a to b, which is at attempt 3",
        ),
    ],
)
def test_what_an_ended_move_or_a_dead_attempt_left_behind(moves: list[SlotMove], owner: str) -> None:
    source, target = held(**A), held(**B)
    source.publications.append("likering_s3_m7_a2")
    source.replication_slots.append("likering_s3_m7_a2")
    target.subscriptions.append("likering_s3_m7_a2")
    findings = found(source, target, moves=moves)
    assert [(finding.node, finding.what, finding.transient) for finding in findings] == [
        ("a", f"publication likering_s3_m7_a2 of {owner}", False),
        ("a", f"replication slot likering_s3_m7_a2 of {owner}", False),
        ("b", f"subscription likering_s3_m7_a2 of {owner}", False),
    ]
    assert [finding.remedy.removeprefix("in the node's Postgres: ") for finding in findings] == [
        "DROP PUBLICATION likering_s3_m7_a2",
        "SELECT pg_drop_replication_slot('likering_s3_m7_a2')",
        "ALTER SUBSCRIPTION likering_s3_m7_a2 DISABLE;"
        " ALTER SUBSCRIPTION likering_s3_m7_a2 SET (slot_name = NONE); DROP SUBSCRIPTION likering_s3_m7_a2",
    ]


def test_tables_of_owned_slots_are_no_findings_and_others_are() -> None:
    source = held(**A)
    source.tables.extend(("edges_s0", "posts_s0", "edges_s2", "edges_s3_m6"))
    findings = found(source)
    assert [finding.what for finding in findings] == [
        "table edges_s2, but node b owns slot 2 and no move needs it",
        "copy kept in table edges_s3_m6 of move 6, which has ended",
    ]
    assert "ALTER TABLE edges DETACH PARTITION edges_s2 CONCURRENTLY" in findings[0].remedy
    assert findings[1].remedy.startswith("make sure that node")
    assert findings[1].remedy.endswith(
        "has the slot's likes; then in the node's Postgres: DROP TABLE edges_s3_m6"
    )


@pytest.mark.parametrize("state", [MoveState.MOVED, MoveState.VERIFIED])
def test_the_copy_that_a_source_keeps_goes_with_its_move(state: MoveState) -> None:
    source, target = held(s0="owner", s1="owner", s3="moved"), held(**B, s3="owner 2")
    source.tables.extend(("edges_s3_m7", "posts_s3_m7"))
    findings = found(source, target, at=topology("aabb", (1, 1, 1, 2)), moves=[slot_move(state)])
    assert [finding.transient for finding in findings] == [True, True]


def test_a_name_of_another_version_is_told() -> None:
    source = held(**A)
    source.tables.append("edges_of_tomorrow_s3")
    (finding,) = found(source)
    assert finding.what == "table edges_of_tomorrow_s3, whose name this version does not know"


def test_a_topology_from_a_backup_is_mended_and_nothing_else() -> None:
    """Slot 3 has moved from a to b since; both databases agree on that."""
    findings = found(held(s0="owner", s1="owner", s3="moved"), held(**B, s3="owner 2"))
    assert [(one.node, one.transient) for one in findings] == [("a", False), ("b", False)]
    for one in findings:
        assert "SET owner = 'b', epoch = 2 WHERE slot = 3" in one.remedy
    # Of a node that does not answer nothing is known.
    (finding,) = Check(topology(), [], {"b": held(**B, s3="owner 2")}).findings()
    assert finding.remedy.startswith("stop the node's process")
    # Two nodes that say so contradict each other, whatever the topology says.
    findings = found(held(**A), held(**B, s3="owner 2"))
    assert [one.remedy.startswith("stop the node's process") for one in findings] == [True]
