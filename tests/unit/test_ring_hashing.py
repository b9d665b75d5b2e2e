"""Slots by xxh3_64: values that a program in another language must get too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.ring.hashing import MAX_SLOT_COUNT, check_slot_count, slot_of

# key, xxh3_64 of its UTF-8 bytes with seed 0. The first three are known from xxHash's own documentation and tools.
HASHES = [
    ("", 0x2D06800538D394C2),
    ("a", 0xE6C632B61E964E1F),
    ("abc", 0x78AF5F94892F3950),
]
# key, its slot among 16, 64, 4096, 16384
SLOTS = [
    ("p1", (4, 36, 868, 9060)),
    ("p2", (1, 49, 945, 9137)),
    ("post-1", (14, 14, 2446, 14734)),
    ("1234567890123456789", (9, 57, 2297, 10489)),
    ("7300000000000000001", (9, 41, 3561, 11753)),
    ("with space", (15, 63, 1087, 13375)),
    ("0123456789abcdef0", (4, 52, 52, 8244)),
    ("x" * 128, (7, 23, 3351, 7447)),
    ("\u00fc", (14, 46, 3950, 8046)),
    ("\U0001f499 post", (3, 35, 1443, 13731)),
]


@pytest.mark.parametrize(("key", "value"), HASHES)
def test_the_slot_is_the_low_bits_of_xxh3(key: str, value: int) -> None:
    for bits in range(15):
        assert slot_of(key, 1 << bits) == value % (1 << bits)


@pytest.mark.parametrize(("key", "slots"), SLOTS)
def test_golden_vectors(key: str, slots: tuple[int, int, int, int]) -> None:
    assert tuple(slot_of(key, count) for count in (16, 64, 4096, 16384)) == slots


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 14))
def test_a_slot_is_within_the_slots(key: str, bits: int) -> None:
    assert 0 <= slot_of(key, 1 << bits) < 1 << bits


def test_an_unpaired_surrogate_has_no_slot() -> None:
    with pytest.raises(UnicodeEncodeError):
        slot_of("\ud800", 64)


@pytest.mark.parametrize("count", [1 << bits for bits in range(15)])
def test_slot_counts_are_powers_of_two(count: int) -> None:
    check_slot_count(count)


@pytest.mark.parametrize("count", [-64, -1, 0, 3, 63, 96, MAX_SLOT_COUNT - 1, MAX_SLOT_COUNT * 2])
def test_other_slot_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"power of two from 1 to 16384, not {count}"):
        check_slot_count(count)
