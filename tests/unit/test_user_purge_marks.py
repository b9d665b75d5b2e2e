"""What a mark of a user refuses, and which marks stay when slots come and go."""

from __future__ import annotations

from shard_node.packed_ids import pack
from shard_node.purge_keys import mark_key, user_mark_key
from shard_node.purge_marks import PurgeMark
from shard_node.user_purge_marks import UserPurgeMarks


def test_a_marked_user_is_refused_in_marked_slots_and_nobody_else_is() -> None:
    marks = UserPurgeMarks()
    assert not marks
    marks.add("u", PurgeMark(slot=1, began=7))
    marks.add("u", PurgeMark(slot=2, began=7))
    assert marks
    assert marks.refused(["u", "u", "v", "u"], [1, 3, 1, 2]) == [0, 3]
    assert [marks.purge("u", 1), marks.purge("u", 3), marks.purge("v", 1)] == [7, 0, 0]
    marks.remove("u", 1)
    assert marks.refused(["u", "u"], [1, 2]) == [1]
    marks.remove("u", 2)
    marks.remove("u", 2)
    assert not marks


def test_marks_of_slots_that_left_are_forgotten_and_those_of_slots_that_came_are_there() -> None:
    marks = UserPurgeMarks()
    marks.add("u", PurgeMark(1, 7))
    marks.add("u", PurgeMark(2, 7))
    marks.add("gone", PurgeMark(2, 8))
    marks.replace({1}, [("u", PurgeMark(3, 9)), ("new", PurgeMark(3, 10))])
    assert [marks.purge("u", slot) for slot in (1, 2, 3)] == [7, 0, 9]
    assert marks.purge("new", 3) == 10
    assert len(marks) == 2


def test_marks_of_users_and_posts_are_of_different_keys() -> None:
    """Whatever the ids are: the highest too."""
    highest = "ffffffff-ffff-ffff-ffff-ffffffffffff"
    keys = [mark_key(highest), user_mark_key("u"), mark_key("u"), user_mark_key(highest), pack(highest)]
    assert len(set(keys)) == len(keys)
    assert all(key > pack(highest) for key in keys[:-1])
    assert user_mark_key("u") > mark_key(highest)
