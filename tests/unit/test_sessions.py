"""Batches that their router gave up are refused, however late they arrive."""

from __future__ import annotations

from shard_node.sessions import Sessions


def test_a_batch_below_the_floor_is_refused() -> None:
    """The floor is of one session, and never goes down."""
    sessions = Sessions()
    assert sessions.accepts("r1", 5, 1)
    assert sessions.accepts("r1", 7, 7)
    assert not sessions.accepts("r1", 6, 1)
    assert sessions.accepts("r1", 7, 1)
    assert sessions.accepts("r2", 6, 1)


def test_the_session_unheard_of_for_longest_is_forgotten() -> None:
    """Memory is bounded; a session that is in use stays."""
    sessions = Sessions(remembered=2)
    sessions.accepts("old", 9, 9)
    sessions.accepts("used", 9, 9)
    sessions.accepts("used", 9, 9)
    sessions.accepts("new", 1, 1)
    assert sessions.accepts("old", 1, 1)
    sessions.accepts("used", 9, 9)
    assert not sessions.accepts("used", 1, 1)
