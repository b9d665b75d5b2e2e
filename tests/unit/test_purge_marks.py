"""Which operations a mark refuses, and which marks stay when slots come and go."""

from __future__ import annotations

from shard_node.purge_marks import PurgeMark, PurgeMarks


def test_likes_of_a_marked_post_are_refused_and_nothing_else() -> None:
    marks = PurgeMarks()
    assert not marks
    marks.add("p", PurgeMark(slot=1, began=7))
    assert marks
    assert marks.refused([True, False, True], ["p", "p", "q"]) == [0]
    assert marks.began("p") == 7
    assert marks.began("q") is None
    marks.remove("p")
    assert marks.refused([True], ["p"]) == []


def test_marks_of_slots_that_left_are_forgotten_and_those_of_slots_that_came_are_there() -> None:
    marks = PurgeMarks()
    marks.add("stays", PurgeMark(1, 7))
    marks.add("leaves", PurgeMark(2, 8))
    marks.replace({1}, [("comes", PurgeMark(3, 9))])
    assert [marks.began(post) for post in ("stays", "leaves", "comes")] == [7, None, 9]
