"""What moves leave behind is told from what they need, by names alone."""

from __future__ import annotations

import pytest

from likering.topology.move_names import Attempt, TableName, parse_replication, parse_table
from likering.topology.moves import ENDED, MoveState
from shard_node.handoff.leftovers import Inventory, superfluous
from tests.parts.moves import slot_move

EVERYTHING = Inventory(
    publications=["likering_s3_m7_a1"],
    subscriptions=["likering_s3_m7_a1"],
    replication_slots=["likering_s3_m7_a1"],
    tables=["edges_s3", "posts_s3", "edges_s3_m7", "edges_s3_m7_a1"],
)


def names_of(inventory: Inventory) -> set[str]:
    """Each name with its kind."""
    return {
        *(f"publication {name}" for name in inventory.publications),
        *(f"subscription {name}" for name in inventory.subscriptions),
        *(f"slot {name}" for name in inventory.replication_slots),
        *inventory.tables,
    }


def test_names_tell_what_they_belong_to() -> None:
    """There and back; what is somebody else's is nobody's attempt."""
    attempt = Attempt(slot=3, move=7, attempt=2)
    assert parse_replication(attempt.replication) == attempt
    assert parse_table(attempt.staging("edges")) == TableName("edges", 3, 7, 2)
    assert parse_table("posts_s3_m7") == TableName("posts", 3, 7, None)
    assert parse_table("posts_s12") == TableName("posts", 12, None, None)
    assert parse_replication("likering_s3_m7") is None
    assert parse_replication("backup") is None
    assert parse_table("edges") is None


@pytest.mark.parametrize(
    "state",
    [
        MoveState.COPYING,
        MoveState.CATCHING_UP,
        MoveState.FREEZING,
        MoveState.COMMITTED,
        MoveState.ACTIVATING,
    ],
)
def test_the_current_attempt_needs_everything(state: MoveState) -> None:
    """On both nodes."""
    assert names_of(superfluous(EVERYTHING, [slot_move(state)], set(), "b", [])) == set()


def test_a_later_attempt_needs_nothing_of_an_earlier_one() -> None:
    """But its tables have the slot's own name by then, and stay."""
    left = superfluous(EVERYTHING, [slot_move(MoveState.COPYING, attempt=2)], set(), "b", [])
    assert names_of(left) == {
        "publication likering_s3_m7_a1",
        "subscription likering_s3_m7_a1",
        "slot likering_s3_m7_a1",
        "edges_s3_m7_a1",
    }


def test_the_source_keeps_its_copy_until_it_is_retired() -> None:
    """Whatever else is gone by then."""
    for state in (MoveState.MOVED, MoveState.VERIFIED):
        left = superfluous(EVERYTHING, [slot_move(state)], set(), "a", [])
        assert "edges_s3_m7" not in names_of(left)
        assert {"edges_s3", "posts_s3", "edges_s3_m7_a1"} < names_of(left)
    assert "edges_s3_m7" in names_of(superfluous(EVERYTHING, [], {7}, "a", []))


def test_the_source_has_its_partition_until_it_is_set_aside() -> None:
    """Its slots row is not the owner's any more, but the rows are its copy."""
    assert "edges_s3" not in names_of(superfluous(EVERYTHING, [slot_move(MoveState.ACTIVE)], set(), "a", []))


def test_slots_of_the_node_are_never_superfluous() -> None:
    """Those that the topology has just given to it have tables before they have a row."""
    left = superfluous(EVERYTHING, [], {7}, "b", [3])
    assert not {"edges_s3", "posts_s3"} & names_of(left)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_is_left_of_a_move_that_ended(state: MoveState) -> None:
    """The store does not list it any more, and says that it has ended."""
    assert state in ENDED
    assert names_of(superfluous(EVERYTHING, [], {7}, "b", [])) == names_of(EVERYTHING)


def test_a_copy_that_nobody_has_compared_stays() -> None:
    """Its node, or the target, was lost before: it may be the last one. All else of the move goes."""
    left = names_of(superfluous(EVERYTHING, [], {7}, "a", [], {7}))
    assert left == names_of(EVERYTHING) - {"edges_s3_m7"}
    assert EVERYTHING.kept == {7}
    assert Inventory([], [], [], ["edges_s3", "edges_s3_m7_a1"], sealed=[9]).kept == set()


def test_what_others_made_is_left_alone() -> None:
    """An operator's own publication of the same database."""
    others = Inventory(["likering_stats"], ["likering_s_backup"], ["likering_slot"], ["edges_summary"])
    assert names_of(superfluous(others, [], set(), "b", [])) == set()


def test_the_moves_that_names_tell_of_are_asked_for() -> None:
    """And those of the seals."""
    assert EVERYTHING.moves == {7}
    assert Inventory([], [], [], ["edges_s3", "posts_s1_m4", "edges_summary"], sealed=[9]).moves == {4, 9}
