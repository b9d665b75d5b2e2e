"""The pure rules of sweeping: which consumers have expired, which likes are too old, how a slot is gone over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from likering.cursors import FROM_NOW
from shard_node.admin.sweeper import PAGE, Page, Round
from shard_node.feed import Follower
from shard_node.swept import SweptIntents


@dataclass
class Slot:
    """One slot, its feed by the last state of each edge, and the sweeper, one step after the other."""

    clock: int = 0
    swept_rev: int = 0
    edges: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Edge → revision and whether it is liked."""

    def change(self, edge: int) -> None:
        liked = self.edges.get(edge, (0, False))[1]
        self.clock += 1
        self.edges[edge] = self.clock, not liked

    def sweep(self, until: int) -> None:
        for edge, (rev, liked) in list(self.edges.items()):
            if not liked and rev <= until:
                del self.edges[edge]
                self.swept_rev = max(self.swept_rev, rev)


@dataclass
class Consumer:
    """Reads page by page; what it stores is its cursor, and what it was told."""

    began: int
    position: int = 0
    told: dict[int, bool] = field(default_factory=dict)

    def read(self, slot: Slot, limit: int) -> bool:
        """Whether it may go on."""
        if Follower({0: self.position}, self.began).has_expired(0, slot.swept_rev):
            return False
        found = sorted((rev, edge) for edge, (rev, _) in slot.edges.items() if rev > self.position)
        for rev, edge in found[:limit]:
            self.told[edge] = slot.edges[edge][1]
            self.position = rev
        if len(found) <= limit:
            self.position = slot.clock
        return True


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 5)),
        st.tuples(st.just("sweep"), st.integers(0, 40)),
        st.tuples(st.just("read"), st.integers(1, 3)),
        st.tuples(st.just("begin"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whoever_is_not_expired_knows_of_no_like_that_has_ended(steps: list[tuple[str, int]]) -> None:
    """Whatever changes, is swept and is read, in whatever order; and old sweeps expire nobody who begins."""
    slot, consumers = Slot(), [Consumer(0)]
    for step, number in steps:
        match step:
            case "change":
                slot.change(number)
            case "sweep":
                slot.sweep(number)
            case "begin":
                consumer = Consumer(slot.clock)
                consumers.append(consumer)
                assert consumer.read(slot, 1)
            case _:
                consumers = [consumer for consumer in consumers if consumer.read(slot, number)]
    for consumer in consumers:
        if consumer.read(slot, 1000):
            liked = {edge for edge, (_, liked) in slot.edges.items() if liked}
            assert {edge for edge, liked in consumer.told.items() if liked} == liked


def test_a_consumer_whose_now_is_not_known_yet_has_missed_nothing() -> None:
    assert not Follower({0: FROM_NOW}).has_expired(0, 10**15)


def test_likes_of_before_what_was_swept_are_refused_in_that_slot() -> None:
    swept = SweptIntents()
    assert not swept
    swept.replace({0: 0, 1: 100})
    assert swept
    likes, slots, intents = [True, True, True, False, True], [1, 1, 1, 1, 0], [99, 100, 0, 99, 99]
    # The like that has the unlike's own intent would have stood against it, too; an unlike brings nothing back.
    assert swept.refused(likes, slots, intents) == [0]
    swept.note(0, 200)
    swept.note(1, 50)
    assert swept.refused(likes, slots, intents) == [0, 4]
    assert swept.refused([True], [0], [200]) == []
    swept.replace({1: 100})
    assert swept.refused(likes, slots, intents) == [0]


def _pages(current: Round, tombstones: dict[int, int], until: int, now: int) -> Iterator[Page]:
    """Looks of a slot that has an edge at each revision; ``tombstones``: revision → intent."""
    more = True
    while more and current.position < until:
        revs = range(current.position + 1, min(until, current.position + PAGE) + 1)
        found = [rev for rev in revs if rev in tombstones]
        late = [rev for rev in found if tombstones[rev] > until]
        page = Page(len(revs), revs[-1], [rev for rev in found if rev not in late], min(late, default=None))
        yield page
        more = current.advance(page, until, now)


def test_a_slot_is_gone_over_once_and_then_from_where_it_came_to() -> None:
    current = Round(epoch=1, position=0)
    first = list(_pages(current, {3: 3, 7000: 7000}, until=2 * PAGE + 5, now=1))
    assert [page.tombstones for page in first] == [[3], [7000], []]
    assert current.position == 2 * PAGE + 5
    (second,) = _pages(current, {12_000: 12_000}, until=12_500, now=2)
    assert second.tombstones == [12_000]
    assert list(_pages(current, {}, until=12_500, now=3)) == []


def test_a_tombstone_with_a_newer_intent_is_passed_over_and_come_back_to() -> None:
    current, retention = Round(epoch=1, position=0), 100
    tombstones = {5: 1000, 8: 8}
    assert [page.tombstones for page in _pages(current, tombstones, until=50, now=150)] == [[8]]
    current.begin(200, retention)
    assert current.position == 50
    current.begin(1200, retention)
    assert current.position == 4
    assert [page.tombstones for page in _pages(current, tombstones, until=1100, now=1200)] == [[5, 8]]
