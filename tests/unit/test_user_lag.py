"""The lag is looked at when it is asked for, by destination, and gone with the feed."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from shard_node.user_lag import UserFeedLag
from shard_node.user_parcels import Destination, Detour, Parcel, Portion
from shard_node.user_store import UserChange


def test_lags_are_told_by_destination_while_the_feed_runs() -> None:
    lags, registry = {"a": 0.0, "b": 2.5}, CollectorRegistry()
    with UserFeedLag(lambda: lags, registry):
        assert registry.get_sample_value("likering_user_feed_lag_seconds", {"destination": "b"}) == 2.5
        lags["b"] = 0.5
        assert registry.get_sample_value("likering_user_feed_lag_seconds", {"destination": "b"}) == 0.5
        assert b'{destination="a"} 0.0' in generate_latest(registry)
    assert generate_latest(registry) == b""


def test_a_destination_lags_by_its_oldest_change_whether_it_waits_or_is_under_way() -> None:
    destination = Destination("b")
    assert destination.lag(100.0) == 0.0
    destination.owes(3, 97.0)
    destination.owes(3, 99.0)
    destination.owes(4, 98.0)
    assert destination.lag(100.0) == 3.0
    parcel = Parcel()
    parcel.portions.append(Portion(3, 1, 0, 96_000_000, True, destination.pending.pop(3)))
    parcel.add(
        parcel.portions[0], [(UserChange(3, 95_000_000, True, True, "p", "u", 95_000_000, True), 7, 1)], None
    )
    destination.parcel = parcel
    assert destination.lag(100.0) == 5.0
    destination.take_back(parcel)
    assert destination.lag(100.0) == 5.0
    assert destination.pending.keys() == {3, 4}


def test_only_what_is_above_the_mark_is_told() -> None:
    parcel, portion = Parcel(), Portion(3, 1, 10, 20, True, 0.0)
    changes = [(UserChange(3, rev, True, True, f"p{rev}", "u", rev, True), 7, 1) for rev in (9, 10, 11, 15)]
    parcel.add(portion, changes, None)
    assert [row[1] for row in parcel.rows] == ["p11", "p15"]
    assert portion.revs == [11, 15]


def test_a_way_past_what_is_refused_leads_back_to_that_alone() -> None:
    """Slots 7 and 8 of users refuse, 7 for longer; what is new meanwhile is told to all."""
    detour = Detour(since=1.0)
    assert not detour.answered(_page(0, 20, complete=False, user_slots=(6, 7, 8)), (False, True, True))
    assert detour.position == 20
    assert not detour.answered(_page(20, 30, complete=True, user_slots=(7, 6)), (True, False))
    assert detour.position == 0
    assert [slot for slot in (6, 7, 8) if detour.lacks(25, slot)] == [7, 8]
    assert detour.lacks(31, 6)
    assert not detour.answered(_page(0, 40, complete=True, user_slots=(7, 8, 6)), (True, False, False))
    assert [slot for slot in (6, 7, 8) if detour.lacks(35, slot)] == [7]
    assert not detour.answered(_page(0, 35, complete=False, user_slots=(7,)), ())
    assert detour.answered(_page(35, 50, complete=True, user_slots=(6,)), ())


def _page(start: int, end: int, *, complete: bool, user_slots: tuple[int, ...]) -> Portion:
    portion = Portion(3, 1, start, end, complete, 0.0)
    portion.user_slots.extend(user_slots)
    return portion
