"""Which slots the metrics tell apart."""

from __future__ import annotations

from collections import Counter
from typing import cast

from shard_node.ownership import HeldSlot, Ownership, SlotState
from shard_node.slot_figures import SlotFigures


def figures(writes: Counter[int], named: int, slots: int = 8) -> SlotFigures:
    ownership = Ownership(slots)
    ownership.replace({slot: HeldSlot(1, SlotState.OWNER) for slot in range(slots)})
    return SlotFigures(cast("object", None), ownership, writes, named)  # type: ignore[arg-type]


def test_the_busiest_slots_have_a_name() -> None:
    writes = Counter({3: 100, 5: 90, 1: 10})
    found = figures(writes, named=2)
    found.rank()
    assert found.named == [3, 5]


def test_a_slot_that_was_busy_once_makes_way_for_one_that_is() -> None:
    """However much the first one was written to in all."""
    writes = Counter({3: 1000})
    found = figures(writes, named=1)
    found.rank()
    assert found.named == [3]
    for _ in range(8):
        writes[5] += 100
        found.rank()
    assert found.named == [5]


def test_all_slots_may_have_a_name_and_none_that_is_not_owned_has_one() -> None:
    found = figures(Counter({7: 1, 12: 50}), named=16384)
    found.rank()
    assert found.named == list(range(8))
    none = figures(Counter({7: 1}), named=0)
    none.rank()
    assert none.named == []
