"""What a node serves: its own slots, frozen ones for reads only and only for a while, none that it does not know."""

from __future__ import annotations

import pytest

from likering.shard.v1.shard_service_pb2 import OP_CODE_MOVING, OP_CODE_NOT_OWNER
from shard_node.ownership import READ_LEASE, HeldSlot, Ownership, SlotState
from tests.parts.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """Of the ownership."""
    return Clock()


@pytest.fixture
def ownership(clock: Clock) -> Ownership:
    """Slot 1 is owned, slot 2 frozen, slot 3 has moved, slot 4 was never here; all at epoch 5."""
    ownership = Ownership(8, clock=clock)
    ownership.replace(
        {
            1: HeldSlot(5, SlotState.OWNER),
            2: HeldSlot(5, SlotState.FROZEN, move=7, attempt=1),
            3: HeldSlot(5, SlotState.MOVED, move=6, attempt=1),
        }
    )
    return ownership


def test_writes_are_for_owned_slots_at_their_epoch(ownership: Ownership) -> None:
    """A frozen slot is about to move, anything else belongs to somebody else."""
    refused = ownership.refused_writes([1, 1, 2, 2, 3, 4], [5, 4, 5, 4, 5, 5])
    assert refused == {
        1: OP_CODE_NOT_OWNER,
        2: OP_CODE_MOVING,
        3: OP_CODE_NOT_OWNER,
        4: OP_CODE_NOT_OWNER,
        5: OP_CODE_NOT_OWNER,
    }


def test_a_frozen_slot_is_not_read_before_its_target_was_heard(ownership: Ownership) -> None:
    """After a restart nobody knows whether the target serves by now."""
    assert ownership.refused_reads([1, 2], [5, 5]) == {1: OP_CODE_MOVING}


def test_a_frozen_slot_is_read_for_a_while_after_each_word(ownership: Ownership, clock: Clock) -> None:
    """The lease that the target waits out when it cannot ask for the end of reads."""
    ownership.read_on(2)
    clock.now += READ_LEASE * 0.9
    assert ownership.refused_reads([2, 2], [5, 4]) == {1: OP_CODE_NOT_OWNER}
    ownership.read_on(2)
    clock.now += READ_LEASE * 0.9
    assert ownership.refused_reads([2], [5]) == {}
    clock.now += READ_LEASE * 0.2
    assert ownership.refused_reads([2], [5]) == {0: OP_CODE_MOVING}


def test_reads_end_when_the_target_says_so(ownership: Ownership) -> None:
    """And do not come back by themselves."""
    ownership.read_on(2)
    ownership.stop_reads(2)
    assert ownership.refused_reads([2], [5]) == {0: OP_CODE_MOVING}


def test_a_late_repetition_of_the_freeze_does_not_bring_reads_back(ownership: Ownership) -> None:
    """The target may write by then. They are back when the slot is the node's again, or frozen another time."""
    ownership.stop_reads(2)
    ownership.read_on(2)
    assert ownership.refused_reads([2], [5]) == {0: OP_CODE_MOVING}
    frozen = ownership.held[2]
    ownership.replace({2: HeldSlot(5, SlotState.OWNER)})
    assert ownership.refused_reads([2], [5]) == {}
    ownership.replace({2: frozen})
    ownership.read_on(2)
    assert ownership.refused_reads([2], [5]) == {}


def test_silence_counts_from_the_last_word(ownership: Ownership, clock: Clock) -> None:
    """A target that was never heard of has been silent for ever."""
    assert ownership.silence(2) == float("inf")
    ownership.heard_of(2)
    clock.now += 0.25
    assert ownership.silence(2) == pytest.approx(0.25)


def test_a_target_that_ends_the_reads_is_not_silent(ownership: Ownership, clock: Clock) -> None:
    """It is about to commit: the source must not ask for the end of the move now."""
    ownership.read_on(2)
    clock.now += 0.25
    ownership.stop_reads(2)
    clock.now += 0.5
    assert ownership.silence(2) == pytest.approx(0.5)


def test_a_slot_that_arrives_is_asked_for_again(ownership: Ownership) -> None:
    """Until it is here, or will not come."""
    ownership.arrives(4, 6)
    assert ownership.refused_writes([4, 4], [6, 5]) == {0: OP_CODE_MOVING, 1: OP_CODE_NOT_OWNER}
    ownership.arrives_not(4)
    assert ownership.refused_writes([4], [6]) == {0: OP_CODE_NOT_OWNER}
    ownership.arrives(4, 6)
    ownership.replace({4: HeldSlot(6, SlotState.OWNER)})
    assert ownership.refused_writes([4], [6]) == {}
    assert ownership.refused_writes([4], [7]) == {0: OP_CODE_NOT_OWNER}


def test_frozen_slots_keep_their_epoch_in_the_cache(ownership: Ownership) -> None:
    """Or their counts would lie under another key while they are frozen, and be found there at the next freeze."""
    assert ownership.epochs == {1: 5, 2: 5}
    assert ownership.owned == {1: 5}
