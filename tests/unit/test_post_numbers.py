"""What the writer knows of the posts' numbers: nothing that may not be so any more, and not without bound."""

from __future__ import annotations

from shard_node.post_numbers import PostNumbers

SLOTS = {"a": 1, "b": 1, "c": 2}


def test_what_was_learned_is_known_until_the_slot_is_forgotten() -> None:
    numbers = PostNumbers()
    assert numbers.known(SLOTS) == [None, None, None]
    numbers.learn({"a": 7, "c": 3}, SLOTS)
    assert numbers.known(SLOTS) == [7, None, 3]
    numbers.keep({2})
    assert numbers.known(SLOTS) == [None, None, 3]
    assert numbers.lacks({1, 2}) == {1}


def test_new_posts_get_the_numbers_behind_those_that_are_used() -> None:
    """Each its own in its slot; what was given and not used is given again."""
    numbers = PostNumbers()
    assert numbers.lacks([1, 2]) == {1, 2}
    numbers.highest(1, 10)
    numbers.highest(2, 0)
    assert numbers.lacks([1, 2]) == set()
    for _ in range(2):
        assert numbers.next([1, 2, 1, 1, 2]) == [11, 1, 12, 13, 2]
    numbers.used({"a": 12}, SLOTS)
    numbers.used({"b": 11}, SLOTS)
    assert numbers.next([1, 2]) == [13, 1]
    assert numbers.known(SLOTS) == [None, None, None]


def test_posts_that_were_read_do_not_tell_which_numbers_come_next() -> None:
    """Others of the slot may have higher ones."""
    numbers = PostNumbers()
    numbers.remember({"a": 7}, SLOTS)
    assert numbers.known(SLOTS) == [7, None, None]
    assert numbers.lacks({1}) == {1}


def test_what_is_forgotten_begins_another_era() -> None:
    """Whoever has read a number before may not tell it any more."""
    numbers = PostNumbers()
    before = numbers.era
    numbers.keep({1})
    assert numbers.era > before


def test_no_more_posts_are_remembered_than_fit() -> None:
    """The slot that began to gather first goes; its highest number stays."""
    numbers = PostNumbers(most=3)
    numbers.learn({"a": 1, "b": 2}, SLOTS)
    numbers.learn({"c": 1, "d": 2}, {"c": 2, "d": 2})
    assert numbers.known(SLOTS) == [None, None, 1]
    assert numbers.next([1, 2]) == [3, 3]
