"""Ids as bytes: every text comes back as it was, and no two texts are the same bytes."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_node.packed_ids import pack, unpack

_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=32)
_NUMBERS = st.integers(0, 2**70).map(str)
_IDS = st.one_of(_TEXTS, _NUMBERS, _NUMBERS.map(lambda digits: f"0{digits}"), st.uuids().map(str))


@given(_IDS)
def test_an_id_comes_back_as_it_was(text: str) -> None:
    assert unpack(pack(text)) == text


@given(_IDS, _IDS)
def test_two_ids_are_never_the_same_bytes(one: str, other: str) -> None:
    assert (pack(one) == pack(other)) == (one == other)


@given(_IDS)
def test_every_id_is_before_seventeen_bytes_of_ones(text: str) -> None:
    assert pack(text) < b"\xff" * 17


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("255", 1),
        ("256", 2),
        ("7123456789012345678", 8),
        ("18446744073709551615", 8),  # 2^64 - 1
        ("18446744073709551616", 21),
        ("0", 2),
        ("01", 3),
        ("-1", 3),
        ("٣", 3),  # a decimal digit, but not of ASCII
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479", 16),
        ("F47AC10B-58CC-4372-A567-0E02B2C3D479", 37),
        ("00000000-58cc-4372-a567-0e02b2c3d479", 37),
        ("{f47ac10b-58cc-4372-a567-0e02b2c3d47}", 38),
        ("u1", 3),
    ],
)
def test_numbers_and_uuids_are_short(text: str, size: int) -> None:
    assert len(pack(text)) == size
    assert unpack(pack(text)) == text


def test_a_uuid_is_its_own_bytes() -> None:
    one = uuid.UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")
    assert pack(str(one)) == one.bytes
