"""Cursors of the change feed: they come back as they were made, and nothing else is taken for one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from likering.cursors import BEGINNING, FROM_NOW, Cursors, Standing
from likering.errors import CursorInvalid, SlotUnknown
from likering.paging import PageTokens

SLOTS = 64
POSITIONS = st.dictionaries(
    st.integers(0, SLOTS - 1), st.integers(0, 2**63 - 1) | st.sampled_from([0, 5, 6]), min_size=1, max_size=9
)
OURS = Cursors("our cluster", SLOTS)


@given(POSITIONS, st.just(0) | st.integers(0, 2**63 - 1))
def test_a_cursor_has_what_it_was_made_of(positions: dict[int, int], began: int) -> None:
    assert Cursors("our cluster", SLOTS).read(OURS.make(positions, began)) == Standing(positions, began)


def test_a_cursor_of_a_version_that_did_not_say_when_its_consumer_began_is_good() -> None:
    cursor = "ASgAAAAAAAAAAAIeFAAB2D3UhSnHjDfMRg"
    assert Cursors("our cluster", SLOTS).read(cursor) == Standing({3: 30, 5: 50}, 0)


@pytest.mark.parametrize("slot_count", [1, 2, 64, 1024, 16384])
def test_any_number_of_slots_with_any_number_of_positions(slot_count: int) -> None:
    cursors = Cursors("c", slot_count)
    for distinct in {1, 255, 256, 257, slot_count}:
        positions = {slot: 10**15 + slot % distinct for slot in range(slot_count)}
        assert cursors.read(cursors.make(positions)).positions == positions


def test_a_cursor_of_a_consumer_that_has_caught_up_is_short() -> None:
    stands = {slot: 1_700_000_000_000_000 + slot % 3 * 1000 for slot in range(SLOTS)}
    assert len(OURS.make(stands, 1_700_000_000_000_000)) < 150


@given(POSITIONS, st.data())
def test_a_cursor_with_flipped_bits_is_refused(positions: dict[int, int], data: st.DataObject) -> None:
    cursor = OURS.make(positions)
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    refused(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="))


@given(POSITIONS, st.data())
def test_a_cursor_that_was_cut_or_grew_or_has_another_character_is_refused(
    positions: dict[int, int], data: st.DataObject
) -> None:
    cursor = OURS.make(positions)
    place = data.draw(st.integers(0, len(cursor) - 1))
    if place:
        refused(cursor[:place])
    refused(cursor[:place] + data.draw(st.text(min_size=1, max_size=3)) + cursor[place:])
    other = data.draw(st.characters())
    if other != cursor[place]:
        refused(cursor[:place] + other + cursor[place + 1 :])


@given(st.text())
@example("A" * 600_000)
@example("\ud800")
@example("AQ")
def test_what_was_never_a_cursor_is_refused(text: str) -> None:
    refused(text)


def test_a_cursor_of_another_cluster_or_call_is_refused() -> None:
    refused(Cursors("another cluster", SLOTS).make({0: 5}))
    refused(PageTokens("our cluster", "ListLikers").make("p", 5))
    refused(PageTokens("our cluster", "StreamLikeEvents").make("p", 5))


def test_without_a_cursor_it_begins_at_the_beginning_or_now() -> None:
    assert OURS.begin("", [], from_now=False, now=9) == Standing(dict.fromkeys(range(SLOTS), BEGINNING), 9)
    # Where that is the nodes say; whatever has ended before is below.
    assert OURS.begin("", [3, 5], from_now=True, now=9) == Standing({3: FROM_NOW, 5: FROM_NOW}, 0)


def test_a_cursor_covers_its_slots() -> None:
    cursor = OURS.make({3: 30, 5: 50}, 7)
    assert OURS.begin(cursor, [], from_now=True, now=9) == Standing({3: 30, 5: 50}, 7)
    assert OURS.begin(cursor, [5], from_now=False, now=9) == Standing({5: 50}, 7)
    for slots, field in (([4], "slots[0]"), ([3, 64], "slots[1]"), ([5, 5], "slots[1]")):
        with pytest.raises(SlotUnknown) as caught:
            OURS.begin(cursor, slots, from_now=False)
        assert [violation.field for violation in caught.value.violations] == [field]


def refused(cursor: str) -> None:
    with pytest.raises(CursorInvalid) as caught:
        OURS.read(cursor)
    assert [violation.field for violation in caught.value.violations] == ["cursor"]
