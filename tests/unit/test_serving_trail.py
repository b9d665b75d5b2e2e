"""Where a call's time went, from what was noted on its way."""

from __future__ import annotations

import pytest

from likering.serving.trail import Trail, Visit, where_time_went

NODE = {"node_queue": 0.010, "commit": 0.020, "cache": 0.003, "node": 0.002}


def test_the_parts_of_one_visit_make_up_the_whole() -> None:
    spent, nodes = where_time_went(100.0, 100.1, [(100.01, Visit("a", 100.02, 100.08, NODE))])
    assert nodes == ["a"]
    assert spent["router_queue"] == pytest.approx(0.01)
    assert spent["wire"] == pytest.approx(0.06 - 0.035)
    assert spent["commit"] == 0.020
    assert spent["router"] == pytest.approx(0.01 + 0.02)
    assert sum(spent.values()) == pytest.approx(0.1)


def test_of_visits_at_the_same_time_the_last_answer_counts() -> None:
    quick, slow = Visit("a", 100.0, 100.01, NODE), Visit("b", 100.0, 100.09, {"commit": 0.08})
    spent, nodes = where_time_went(100.0, 100.09, [(100.0, slow), (100.0, quick)])
    assert nodes == ["b"]
    assert spent["commit"] == 0.08
    assert sum(spent.values()) == pytest.approx(0.09)


def test_tries_one_after_the_other_add_up_and_so_do_the_waits_between() -> None:
    lost = Visit("a", 100.0, 100.5, None)
    again = Visit("a", 101.0, 101.1, {"commit": 0.05})
    spent, nodes = where_time_went(100.0, 101.1, [(100.0, lost), (101.0, again)])
    assert nodes == ["a", "a"]
    assert spent["unanswered"] == pytest.approx(0.5)
    assert spent["between_tries"] == pytest.approx(0.5)
    assert spent["router"] == pytest.approx(0.0)
    assert spent["wire"] == pytest.approx(0.05)
    assert sum(spent.values()) == pytest.approx(1.1)


def test_a_visit_that_was_overtaken_by_another_one_does_not_count_twice() -> None:
    """As of a stale read, which asks the owner first and a replica when that one is silent."""
    owner, replica = Visit("a", 100.0, 100.3, None), Visit("replica", 100.25, 100.3, {"reads": 0.01})
    spent, _ = where_time_went(100.0, 100.3, [(100.0, owner), (100.25, replica)])
    assert sum(spent.values()) == pytest.approx(0.3)


def test_a_node_tells_its_parts_and_what_is_left_over() -> None:
    trail = Trail(100.0)
    assert trail.told(100.5) == {}
    trail.parts = {"commit": 0.3, "cache": 0.1}
    assert trail.told(100.5) == {"spent": {"commit": 0.3, "cache": 0.1, "other": 0.1}}
