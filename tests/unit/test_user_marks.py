"""How far nodes have been told of their users, across changes of owners: never ahead of what they have."""

from __future__ import annotations

import random

import pytest

from shard_node.user_marks import Routes, accepted, digest, rerouted, restored, successions
from shard_node.user_store import Marks


def test_who_gets_a_slot_has_been_told_as_much_as_the_one_before() -> None:
    before: Routes = ("a", "a", "b")
    assert rerouted({"a": 5, "b": 9}, successions(before, ("a", "b", "b"))) == {"a": 5, "b": 5}
    assert rerouted({"a": 9, "b": 5}, successions(before, ("a", "b", "b"))) == {"a": 9, "b": 5}


def test_who_joins_has_been_told_what_all_before_have_and_who_has_left_does_not_count() -> None:
    before: Routes = ("a", "a", "b", "b")
    assert rerouted({"a": 7, "b": 3}, successions(before, ("a", "c", "b", "c"))) == {"a": 7, "b": 3, "c": 3}
    assert rerouted({"a": 7, "b": 3}, successions(before, ("a", "a", "a", "a"))) == {"a": 3}


def test_the_mark_of_users_without_a_node_goes_to_the_node_that_gets_them() -> None:
    marks = rerouted({"": 4, "a": 9}, successions((None, "a"), ("b", "a")))
    assert marks == {"b": 4, "a": 9}
    assert rerouted({}, successions((None, None), ("a", "a"))) == {"a": 0}


def test_notes_count_under_the_same_routes_and_else_the_lowest_does() -> None:
    routes: Routes = ("a", "b")
    marks = {"a": 7, "b": 3}
    assert restored(Marks(digest(routes), marks), routes) == marks
    assert restored(Marks(digest(("b", "a")), marks), routes) == {"a": 3, "b": 3}
    assert restored(Marks(digest(("b", "a")), {}), routes) == {"a": 0, "b": 0}
    assert restored(None, routes) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("one", "other"), [(("a", "b"), ("b", "a")), (("a", None), ("a", "a")), (("ab",), ("a",))]
)
def test_other_routes_have_another_digest(one: Routes, other: Routes) -> None:
    assert digest(one) != digest(other)
    assert -(2**63) <= digest(one) < 2**63


@pytest.mark.parametrize(
    ("refused", "mark"),
    [
        ([], 20),
        ([False] * 3, 20),
        ([True, False, False], 11),
        ([False, True, True], 13),
        ([False, False, True], 17),
    ],
)
def test_a_mark_ends_before_the_first_change_that_was_refused(refused: list[bool], mark: int) -> None:
    assert accepted(10, 20, [12, 14, 18], refused) == mark
    assert accepted(12, 20, [13], [True]) == 12


def test_marks_are_never_ahead_whatever_the_owners_do() -> None:
    """Random owners, sends and moves: whoever owns a user's slot has all changes up to its mark."""
    choose = random.Random(11)
    names, slots = ["a", "b", "c"], 6
    for _ in range(200):
        routes: Routes = tuple(choose.choice(names) for _ in range(slots))
        marks = restored(None, routes)
        told = [0] * slots  # what a slot's rows reach up to, wherever they are
        for _ in range(40):
            if choose.random() < 0.3:
                moved = list(routes)
                for _ in range(choose.randint(1, 3)):
                    moved[choose.randrange(slots)] = choose.choice(names)
                marks = rerouted(marks, successions(routes, tuple(moved)))
                routes = tuple(moved)
            else:
                name = choose.choice(sorted(name for name in marks))
                end = marks[name] + choose.randint(1, 5)
                for slot, owner in enumerate(routes):
                    if owner == name:
                        told[slot] = max(told[slot], end)
                marks[name] = end
            for slot, owner in enumerate(routes):
                assert marks[owner or ""] <= told[slot]
