"""Pages of a slot's feed: what is told of, as what, and where the consumer stands then."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shard_node.changes import changes_after
from shard_node.store import Change, SlotMoment


def edge(user: str, rev: int, first_rev: int | None, *, place: int | None = None) -> Change:
    return Change(0, place or rev, rev, first_rev, True, "p", user, 1, 1, rev)


def purge_of_user(user: str, rev: int) -> Change:
    return Change(0, rev, rev, None, False, "", user, 0, 0, rev)


def purge_of_post(rev: int) -> Change:
    return Change(0, rev, rev, None, False, "p", "", 3, 0, rev)


def moment(last_rev: int, *, owned: bool = True) -> SlotMoment:
    return SlotMoment(1, owned, last_rev)


def test_at_the_end_the_position_is_the_writers() -> None:
    page = changes_after(5, moment(40), [edge("u", 10, 10)], 3)
    assert (page.position, page.complete, list(page.first)) == (40, True, [True])
    assert changes_after(50, moment(40), [], 3).position == 50


def test_of_a_slot_that_is_given_away_only_what_was_seen_counts() -> None:
    assert changes_after(5, moment(40, owned=False), [edge("u", 10, 10)], 3).position == 10
    assert changes_after(5, moment(40, owned=False), [], 3).position == 5


def test_a_page_that_is_full_ends_at_its_last_place() -> None:
    page = changes_after(5, moment(40), [edge("u", 10, 10), edge("v", 20, 20)], 2)
    assert (page.position, page.complete) == (20, False)


def test_a_first_like_that_has_changed_since_is_told_of_at_its_place() -> None:
    found = [edge("u", 10, 10), edge("v", 12, 3), edge("w", 30, 11, place=11)]
    page = changes_after(5, moment(40), found, 2)
    assert [(one.user_id, first) for one, first in zip(page.told, page.first, strict=True)] == [
        ("u", True),
        ("w", True),
    ]
    assert (page.position, page.complete) == (11, False)
    rest = changes_after(page.position, moment(40), [edge("v", 12, 3), edge("w", 30, 11)], 3)
    assert [(one.user_id, first) for one, first in zip(rest.told, rest.first, strict=True)] == [
        ("v", False),
        ("w", False),
    ]


def test_an_edge_with_both_places_in_a_page_is_told_of_once() -> None:
    page = changes_after(5, moment(40), [edge("w", 30, 11), edge("w", 30, 11, place=11)], 5)
    assert [(one.place, first) for one, first in zip(page.told, page.first, strict=True)] == [(30, True)]


def test_what_was_never_liked_is_passed_over() -> None:
    page = changes_after(5, moment(40), [edge("u", 10, None), edge("v", 11, None)], 2)
    assert (list(page.told), page.position, page.complete) == ([], 11, False)


def test_purges_stand_among_the_edges_and_are_no_first_likes() -> None:
    found = [edge("u", 10, 10), edge("v", 30, 30), purge_of_user("w", 20), purge_of_post(25)]
    page = changes_after(5, moment(40), found, 5)
    assert [one.place for one in page.told] == [10, 20, 25, 30]
    assert [one.is_purge for one in page.told] == [False, True, True, False]
    assert list(page.first) == [True, False, False, True]
    assert (page.position, page.complete) == (40, True)


def test_where_the_purges_were_cut_off_the_edges_are_followed_no_further() -> None:
    found = [edge("u", 30, 30), purge_of_user("v", 10), purge_of_user("w", 20)]
    page = changes_after(5, moment(40), found, 2)
    assert ([one.place for one in page.told], page.position, page.complete) == ([10, 20], 20, False)


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(("like", "unlike", "purge user", "purge post"))),
            max_size=4,
        )
    ),
    st.integers(1, 4),
    st.randoms(),
)
def test_whatever_happens_between_pages_each_first_like_comes_once_and_the_last_state_always(
    transactions: list[list[tuple[int, str]]], limit: int, choose: Random
) -> None:
    """Against a slot in memory: transactions and pages in any order. A purge is of all, or of a user's, edges."""
    edges: dict[int, Change] = {}
    purges: list[Change] = []
    told: dict[int, Change] = {}
    firsts: list[tuple[int, int | None]] = []
    last_rev = position = 0
    waiting = list(transactions)
    complete = False
    while waiting or not complete:
        if waiting and choose.random() < 0.5:
            for user, what in waiting.pop(0):
                if what.startswith("purge"):
                    last_rev += 1
                    whole = what == "purge post"
                    purges.append(purge_of_post(last_rev) if whole else purge_of_user(str(user), last_rev))
                    for erased in list(edges) if whole else [user]:
                        edges.pop(erased, None)
                    continue
                liked = what == "like"
                before = edges.get(user)
                if (before is not None and before.liked) is liked:
                    continue
                last_rev += 1
                first_rev = before.first_rev if before and before.first_rev else last_rev if liked else None
                edges[user] = Change(0, last_rev, last_rev, first_rev, liked, "p", str(user), 1, 1, last_rev)
            complete = False
            continue
        by_rev = sorted((one for one in edges.values() if one.rev > position), key=lambda one: one.place)
        by_first = sorted(
            (
                one._replace(place=one.first_rev)
                for one in edges.values()
                if one.first_rev and one.first_rev > position and one.first_rev != one.rev
            ),
            key=lambda one: one.place,
        )
        purged = [one for one in purges if one.place > position]
        found = [*by_rev[:limit], *by_first[:limit], *purged[:limit]]
        page = changes_after(position, moment(last_rev), found, limit)
        assert len(page.told) <= limit
        assert page.complete or page.position > position
        for one, first in zip(page.told, page.first, strict=True):
            if one.is_purge:
                for void in [int(one.user_id)] if one.user_id else list(told):
                    told.pop(void, None)
                continue
            user = int(one.user_id)
            assert user not in told or told[user].rev <= one.rev
            told[user] = one
            if first:
                firsts.append((user, one.first_rev))
        position, complete = page.position, page.complete
    ever = {(user, one.first_rev) for user, one in edges.items() if one.first_rev}
    assert len(firsts) == len(set(firsts))
    assert ever <= set(firsts)
    assert purges or ever == set(firsts)
    assert {user: one.rev for user, one in told.items()} == {user: edges[user].rev for user, _ in ever}
