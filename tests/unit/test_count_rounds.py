"""Which slot's counts are compared next, and what is known of the others."""

from __future__ import annotations

import pytest

from shard_node.admin.count_rounds import CountRounds, SlotRound

HOUR = 3_600_000_000
NOW = 1_700_000_000_000_000
EPOCHS = {1: 7, 2: 7, 3: 7}


def rounds(stored: dict[int, SlotRound] | None = None, epochs: dict[int, int] | None = None) -> CountRounds:
    """As a process has them that has just started."""
    found = CountRounds(stored or {}, HOUR)
    found.follow(epochs or EPOCHS, NOW)
    return found


def compared(of: CountRounds, now: int, *, found: bool = False) -> int | None:
    """The slot that was next; it is compared to its end."""
    slot = of.next(EPOCHS, now)
    if slot is not None:
        of.take_up(slot, now).found = found
        of.done(slot)
    return slot


def test_each_slot_once_in_an_interval_and_first_what_waits_longest() -> None:
    of = rounds(
        {1: SlotRound(7, NOW - HOUR), 2: SlotRound(7, NOW - 3 * HOUR), 3: SlotRound(7, NOW - 2 * HOUR)}
    )
    assert [compared(of, NOW + n) for n in range(4)] == [2, 3, 1, None]
    assert compared(of, NOW + HOUR - 1) is None
    assert [compared(of, NOW + HOUR + n) for n in range(4)] == [2, 3, 1, None]


def test_how_old_the_oldest_comparison_is() -> None:
    """A comparison counts from its begin: what it looked at first may have changed since."""
    of = rounds({1: SlotRound(7, NOW - HOUR), 2: SlotRound(7, NOW - 2 * HOUR), 3: SlotRound(7, NOW - 4)})
    assert of.verified_since == NOW - 2 * HOUR
    assert of.next(EPOCHS, NOW) == 2
    of.take_up(2, NOW)
    assert of.verified_since == NOW - 2 * HOUR
    of.take_up(2, NOW + 5)
    of.done(2)
    assert of.verified_since == NOW - HOUR
    assert compared(of, NOW + 6) == 1
    assert of.verified_since == NOW - 4
    of.follow({2: 7}, NOW + 7)
    assert of.verified_since == NOW
    of.follow({}, NOW + 8)
    assert of.verified_since is None


def test_a_process_that_starts_goes_on_where_the_one_before_has_ended() -> None:
    of = rounds({1: SlotRound(7, NOW - HOUR), 3: SlotRound(7, NOW - HOUR // 2, began=NOW - 9, post_no=40)})
    slot = of.next(EPOCHS, NOW)
    assert slot == 3
    one = of.take_up(slot, NOW)
    assert (one.began, one.post_no, one.end) == (NOW - 9, 40, None)


def test_what_the_process_before_knew_of_wrong_counts_is_found_anew_at_once() -> None:
    wrong = SlotRound(7, NOW - 1, drifted=True, began=NOW - 1, post_no=40)
    of = rounds(
        {1: SlotRound(7, NOW - HOUR, began=NOW - 9, post_no=8), 2: wrong, 3: SlotRound(7, NOW - 2 * HOUR)}
    )
    slot = of.next(EPOCHS, NOW)
    assert slot == 2
    assert of.take_up(slot, NOW).post_no == 0
    of.done(slot)
    assert not wrong.drifted
    assert [compared(of, NOW) for _ in range(3)] == [1, 3, None]


def test_a_slot_that_comes_is_new_and_one_that_comes_back_too() -> None:
    of = CountRounds({1: SlotRound(6, NOW - HOUR), 2: SlotRound(7, NOW - HOUR)}, HOUR)
    assert of.follow({1: 7, 2: 7, 3: 7}, NOW) == {1: SlotRound(7, NOW), 3: SlotRound(7, NOW)}
    assert of.follow({2: 7, 3: 7}, NOW + 1) == {}
    assert of.follow({1: 9, 2: 7, 3: 7}, NOW + 2) == {1: SlotRound(9, NOW + 2)}


def test_a_slot_under_way_is_ended_before_the_next_one() -> None:
    of = rounds({slot: SlotRound(7, NOW - (4 - slot) * HOUR) for slot in EPOCHS})
    assert of.next(EPOCHS, NOW) == 1
    of.take_up(1, NOW)
    assert of.next(EPOCHS, NOW + 9 * HOUR) == 1


@pytest.mark.parametrize("slots", [{1, 2, 3}, {2, 3}])
def test_a_slot_that_cannot_be_looked_at_keeps_nobody_waiting(slots: set[int]) -> None:
    """It is put off for a while, or is frozen."""
    of = rounds({slot: SlotRound(7, NOW - (4 - slot) * HOUR) for slot in EPOCHS})
    of.take_up(1, NOW).post_no = 5
    if 1 in slots:
        of.put_off(1, NOW + 9)
    assert of.next(slots, NOW) == 2
    of.take_up(2, NOW)
    of.done(2)
    assert of.next({1, 2, 3}, NOW + 9) == 1
    assert of.take_up(1, NOW + 9).post_no == 5
