"""Placement: balanced to the slot, moving only what it must, whatever happened before."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from likering.ring.placement import PreferenceRing, fewest_moves, place, quotas

Owners = tuple[str | None, ...]

node_names = st.sampled_from([f"n{number}" for number in range(12)])
small_weights = st.dictionaries(node_names, st.integers(1, 5), min_size=1)
slot_counts = st.integers(0, 9).map(lambda bits: 1 << bits)
any_owners = st.lists(
    st.sampled_from([None, "gone", *(f"n{number}" for number in range(12))]), min_size=1, max_size=64
)


def weights_of(count: int, weight: int = 1) -> dict[str, int]:
    return {f"n{number}": weight for number in range(count)}


def assert_balanced(owners: Owners, weights: Mapping[str, int]) -> None:
    held = Counter(owners)
    assert held.keys() <= weights.keys(), "a slot without owner, or with one that has no weight"
    for name, weight in weights.items():
        share = Fraction(len(owners) * weight, sum(weights.values()))
        assert abs(held[name] - share) < 1, f"{name} holds {held[name]} slots and has a share of {share}"


def moves(before: Sequence[str | None], after: Sequence[str | None]) -> list[tuple[str, str | None]]:
    """(source, target) of each slot that left an owner."""
    return [(old, new) for old, new in zip(before, after, strict=True) if old is not None and old != new]


@pytest.mark.parametrize("slot_count", [64, 1024, 4096])
def test_every_number_of_nodes_up_to_200_is_balanced(slot_count: int) -> None:
    """One resize after the other, up to 200 nodes and back down, each from what the last one left."""
    owners: Owners = (None,) * slot_count
    for count in (*range(1, 201, 7), 200, *range(199, 0, -9)):
        weights = weights_of(count)
        before, owners = owners, place(owners, weights)
        assert_balanced(owners, weights)
        assert len(moves(before, owners)) == fewest_moves(before, weights)


@given(slot_counts, st.dictionaries(st.integers(1, 200), st.integers(1, 1000), min_size=1, max_size=200))
@settings(max_examples=30)
def test_first_placement_is_balanced_for_any_weights(slot_count: int, by_number: dict[int, int]) -> None:
    weights = {f"node-{number}": weight for number, weight in by_number.items()}
    assert_balanced(place([None] * slot_count, weights), weights)


@given(slot_counts, st.lists(small_weights, min_size=1, max_size=8))
def test_any_sequence_of_resizes_stays_balanced_with_the_fewest_moves(
    slot_count: int, resizes: list[dict[str, int]]
) -> None:
    owners: Owners = (None,) * slot_count
    for weights in resizes:
        before, owners = owners, place(owners, weights)
        assert_balanced(owners, weights)
        assert len(moves(before, owners)) == fewest_moves(before, weights)


@given(any_owners, small_weights)
def test_any_slot_map_becomes_balanced_with_the_fewest_moves(
    owners: list[str | None], weights: dict[str, int]
) -> None:
    """Also from a map that no placement made: half assigned, lopsided, with owners that are gone."""
    after = place(owners, weights)
    assert_balanced(after, weights)
    assert len(moves(owners, after)) == fewest_moves(owners, weights)


@given(
    st.lists(st.sampled_from([None, "n0", "n1", "n2", "gone"]), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from(["n0", "n1", "n2", "n3"]), st.integers(1, 3), min_size=1),
)
def test_the_fewest_moves_are_those_of_the_best_of_all_placements(
    owners: list[str | None], weights: dict[str, int]
) -> None:
    """``fewest_moves`` is a formula; here every balanced way to share the slots out is tried."""
    names = list(weights)
    total = sum(weights.values())
    shares = [Fraction(len(owners) * weights[name], total) for name in names]
    held = Counter(owners)
    best = min(
        sum(max(0, held[name] - keeps) for name, keeps in zip(names, counts, strict=True))
        for counts in itertools.product(range(len(owners) + 1), repeat=len(names))
        if sum(counts) == len(owners)
        and all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))
    )
    best += sum(count for name, count in held.items() if name is not None and name not in weights)
    assert fewest_moves(owners, weights) == best


@given(slot_counts, small_weights, small_weights)
def test_nodes_whose_quota_did_not_change_neither_give_nor_take(
    slot_count: int, first: dict[str, int], second: dict[str, int]
) -> None:
    before = place([None] * slot_count, first)
    after = place(before, second)
    unchanged = {name for name in first if Counter(before)[name] == Counter(after)[name]}
    for source, target in moves(before, after):
        assert source not in unchanged
        assert target not in unchanged


@given(slot_counts, st.permutations([1, 1, 2, 3, 5]), st.integers(1, 7))
@example(64, [1, 1, 2, 3, 5], 1)
def test_nodes_whose_share_did_not_change_move_nothing_among_themselves(
    slot_count: int, new_weights: list[int], leaves: int
) -> None:
    """The sum of the weights stays, so every node with the same weight has the same share as before."""
    first = {f"n{number}": weight for number, weight in enumerate([1, 1, 2, 3, 5])} | {"leaves": leaves}
    second = {f"n{number}": weight for number, weight in enumerate(new_weights)} | {"comes": leaves}
    before = place([None] * slot_count, first)
    same = {name for name in first if second.get(name) == first[name]}
    for source, target in moves(before, place(before, second)):
        assert not (source in same and target in same)


def test_the_largest_remainder_is_rounded_up_unless_another_node_would_have_to_give() -> None:
    weights = {"a": 3, "b": 2, "c": 2}  # shares of 8 slots: 3.43, 2.29, 2.29
    assert quotas(weights, 8) == {"a": 4, "b": 2, "c": 2}
    assert quotas(weights, 8, {"a": 3, "b": 2, "c": 3}) == {"a": 3, "b": 2, "c": 3}
    assert quotas(weights, 8, {"a": 9, "b": 0, "c": 3}) == {"a": 4, "b": 2, "c": 2}


@given(slot_counts, small_weights)
def test_a_balanced_map_stays_as_it_is(slot_count: int, weights: dict[str, int]) -> None:
    owners = place([None] * slot_count, weights)
    assert place(owners, weights) == owners


@given(slot_counts, small_weights, small_weights)
def test_the_result_does_not_depend_on_the_order_of_the_nodes(
    slot_count: int, first: dict[str, int], second: dict[str, int]
) -> None:
    owners = place([None] * slot_count, first)
    assert place([None] * slot_count, dict(reversed(first.items()))) == owners
    assert place(owners, dict(reversed(second.items()))) == place(owners, second)


def test_the_result_is_the_same_in_every_process() -> None:
    """A golden placement: neither hash randomisation nor a new version of a library may move slots."""
    owners = place([None] * 16, {"a": 1, "b": 1, "c": 2})
    assert "".join(map(str, owners)) == "bbcccbccbcccaaaa"
    assert "".join(map(str, place(owners, {"a": 1, "b": 1, "c": 2, "d": 1}))) == "bbcccdccbdccdaaa"


@given(any_owners, small_weights)
def test_without_moving_only_slots_without_owner_get_one(
    owners: list[str | None], weights: dict[str, int]
) -> None:
    after = place(owners, weights, move_owned=False)
    held = Counter(owners)
    for old, new in zip(owners, after, strict=True):
        assert new == old if old is not None else new in weights
    # No node is filled over its quota: what it held before may be over already, though.
    quota = quotas(weights, len(owners), {name: held[name] for name in weights})
    for name, count in Counter(after).items():
        assert name is None or name not in weights or count <= max(held[name], quota[name])


@given(st.integers(0, 16383), small_weights)
def test_a_preference_names_every_node_once(slot: int, weights: dict[str, int]) -> None:
    assert sorted(PreferenceRing(weights).of(slot)) == sorted(weights)


def test_a_node_that_left_comes_back_to_most_of_its_slots() -> None:
    """What the ring is for: the order of preference remembers where slots belong."""
    all_three = weights_of(3)
    owners = place([None] * 1024, all_three)
    without = place(owners, {"n0": 1, "n1": 1})
    back = place(without, all_three)
    same = sum(before == after == "n2" for before, after in zip(owners, back, strict=True))
    assert same >= 0.6 * Counter(owners)["n2"]


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": -1}, {"a": 1.5}, {"a": True}])
def test_weights_are_positive_integers(weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"no node|integer of at least 1"):
        place([None], weights)
