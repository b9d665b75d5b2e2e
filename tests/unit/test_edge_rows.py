"""Edges as rows: each state comes back as it was, and no two states have the same row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shard_node.edge_rows import EdgeRow, row_of, state_of
from shard_node.fold import EdgeState

_TIMES = st.integers(1, 5)


@st.composite
def states(draw: st.DrawFn) -> EdgeState:
    """Those that there are: a like has a first one, and only a like has a time of its own."""
    liked = draw(st.booleans())
    rev = draw(_TIMES)
    first_rev = draw(_TIMES if liked else st.none() | _TIMES)
    return EdgeState(0, liked, rev, draw(_TIMES), first_rev, draw(st.none() | _TIMES) if liked else None)


@given(states())
def test_a_state_comes_back_as_it_was(state: EdgeState) -> None:
    assert state_of(0, row_of(state)) == state


@given(states(), states())
def test_two_states_never_have_the_same_row(one: EdgeState, other: EdgeState) -> None:
    assert (row_of(one) == row_of(other)) == (one == other)


def test_a_like_that_was_never_changed_has_one_time() -> None:
    for liked_at, intent in ((None, 7), (3, 3)):
        state = EdgeState(0, liked=True, rev=7, intent=intent, first_rev=7, liked_at=liked_at)
        assert row_of(state) == EdgeRow(7, None, None, liked_at, True)
