"""Of values that change often only the newest is handed on, each key not too often."""

from __future__ import annotations

from likering.conflation import Conflation

ALL = 1000


def test_nothing_is_due_before_anything_came() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    assert conflation.due_in(0.0) is None
    assert conflation.take(0.0, ALL) == {}


def test_a_value_is_due_at_once() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    conflation.offer("a", 1)
    assert conflation.due_in(5.0) == 0.0
    assert conflation.take(5.0, ALL) == {"a": 1}
    assert conflation.due_in(5.0) is None


def test_only_the_newest_is_kept() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    for value in range(10_000):
        conflation.offer("a", value)
    assert conflation.take(5.0, ALL) == {"a": 9999}


def test_a_key_rests_after_it_was_taken_and_its_last_value_comes() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    conflation.offer("a", 1)
    conflation.take(5.0, ALL)
    conflation.offer("a", 2)
    conflation.offer("a", 3)
    assert conflation.take(5.09, ALL) == {}
    assert 0.0 < (conflation.due_in(5.09) or 0.0) <= 0.011
    assert conflation.take(5.1, ALL) == {"a": 3}


def test_keys_rest_one_by_one() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    conflation.offer("a", 1)
    conflation.take(5.0, ALL)
    conflation.offer("a", 2)
    conflation.offer("b", 1)
    assert conflation.take(5.05, ALL) == {"b": 1}
    conflation.offer("b", 2)
    assert conflation.take(5.1, ALL) == {"a": 2}
    assert conflation.take(5.16, ALL) == {"b": 2}


def test_no_more_than_asked_for_is_taken_and_the_rest_waits() -> None:
    conflation: Conflation[int, int] = Conflation(0.1)
    for key in range(5):
        conflation.offer(key, key)
    assert list(conflation.take(5.0, 3)) == [0, 1, 2]
    assert conflation.due_in(5.0) == 0.0
    assert list(conflation.take(5.0, 3)) == [3, 4]


def test_a_key_that_is_forgotten_has_nothing_to_take() -> None:
    conflation: Conflation[str, int] = Conflation(0.1)
    conflation.offer("a", 1)
    conflation.forget("a")
    assert conflation.due_in(5.0) is None
    conflation.offer("a", 2)
    conflation.take(5.0, ALL)
    conflation.offer("a", 3)
    conflation.forget("a")
    assert conflation.due_in(6.0) is None
