"""The node's streams of changes: who is told what, when, and what is gone."""

from __future__ import annotations

import asyncio
import gc

import pytest

from likering.errors import ShardOverloaded
from shard_node import watches as module
from shard_node.ownership import HeldSlot, Ownership, SlotState
from shard_node.store import PostCount
from shard_node.watches import Updates, Watches, WatchStream
from tests.parts.clock import Clock

SLOTS = 8


class Node:
    """Watches over slots that a test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ownership = Ownership(SLOTS)
        self.watches = Watches(self.ownership, clock=self.clock)
        self.ownership.on_replaced.append(self.watches.slots_changed)
        self.hold(dict.fromkeys(range(SLOTS), 1))

    def hold(self, epochs: dict[int, int], state: SlotState = SlotState.OWNER) -> None:
        self.ownership.replace({slot: HeldSlot(epoch, state) for slot, epoch in epochs.items()})

    def add(self, stream: WatchStream, *post_ids: str, epoch: int = 1) -> None:
        slots = self.ownership.slots_of(post_ids)
        self.watches.add(stream, post_ids, slots, [epoch] * len(post_ids))

    def changed(self, post_id: str, version: int, count: int | None = None) -> None:
        self.watches.publish({post_id: PostCount(version, version if count is None else count)})


async def told(stream: WatchStream) -> Updates:
    async with asyncio.timeout(5):
        updates = await stream.next()
    assert updates is not None
    return updates


async def test_a_change_is_told_to_those_who_watch_the_post() -> None:
    node = Node()
    with node.watches.stream("1") as one, node.watches.stream("2") as other:
        node.add(one, "p", "q")
        node.add(other, "q")
        node.changed("p", 1)
        node.changed("r", 1)
        assert (await told(one)).counts == {"p": PostCount(1, 1)}
        node.changed("q", 7)
        assert (await told(other)).counts == {"q": PostCount(7, 7)}
        assert node.watches.watched_posts == 3


async def test_a_post_is_told_of_ten_times_a_second_and_the_last_one_comes() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p")
        versions = []
        for version in range(1, 1001):  # a second of commits
            node.changed("p", version)
            node.clock.now += 0.001
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0)
            if waiting.done() and (updates := waiting.result()) is not None:
                versions += [count.version for count in updates.counts.values()]
            waiting.cancel()
        assert 9 <= len(versions) <= 11
        node.clock.now += 0.1
        assert (await told(stream)).counts == {"p": PostCount(1000, 1000)}


async def test_an_older_commit_that_is_published_later_is_not_told() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p")
        node.changed("p", 2)
        node.changed("p", 1)
        assert (await told(stream)).counts == {"p": PostCount(2, 2)}
        node.clock.now += module.HEARTBEAT
        node.changed("p", 2)
        waiting = asyncio.ensure_future(stream.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_a_post_that_is_removed_is_told_of_no_more() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p", "q")
        node.changed("p", 1)
        node.watches.remove(stream, ["p"])
        node.changed("p", 2)
        node.changed("q", 1)
        assert (await told(stream)).counts == {"q": PostCount(1, 1)}


async def test_posts_of_a_slot_that_has_left_are_gone() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, *(f"p{number}" for number in range(20)))
        slot = node.ownership.slots_of(["p3"])[0]
        leaving = {p for p in stream.places if stream.places[p][0] == slot}
        kept = {other: 1 for other in range(SLOTS) if other != slot}
        node.hold(kept)
        updates = await told(stream)
        assert set(updates.gone) == {(post_id, 1) for post_id in leaving}
        assert not stream.watches("p3", 1)
        node.changed("p3", 9)
        node.hold({**kept, slot: 3})  # it is back, at another epoch
        node.add(stream, "p3", epoch=3)
        node.clock.now += 1
        node.changed("p3", 10)
        assert (await told(stream)).counts == {"p3": PostCount(10, 10)}


async def test_a_slot_that_is_frozen_and_thawed_is_watched_on() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p")
        node.hold(dict.fromkeys(range(SLOTS), 1), SlotState.FROZEN)
        node.hold(dict.fromkeys(range(SLOTS), 1))
        node.changed("p", 1)
        assert await told(stream) == Updates({"p": PostCount(1, 1)}, [])
        node.hold(dict.fromkeys(range(SLOTS), 1), SlotState.MOVED)
        node.clock.now += 1
        assert (await told(stream)).gone == [("p", 1)]


async def test_an_older_epoch_is_gone_at_once_when_the_slots_change() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p", epoch=0)
        node.hold(dict.fromkeys(range(SLOTS), 1))
        assert (await told(stream)).gone == [("p", 0)]


async def test_a_silent_stream_shows_that_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    watches = Watches(Ownership(SLOTS))
    with watches.stream("1") as stream:
        assert await told(stream) == Updates()


async def test_another_writer_ends_the_streams() -> None:
    """What the one before has committed at last may not have been told."""
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p")
        waiting = asyncio.ensure_future(stream.next())
        await asyncio.sleep(0)
        node.watches.end_all()
        assert await waiting is None
        assert node.watches.find("1") is None
        assert node.watches.watched_posts == 0


async def test_nothing_is_left_of_a_stream_that_ended() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p", "q")
    assert node.watches.find("1") is None
    assert repr(node.watches) == "<Watches 0 posts by 0 streams>"


async def test_who_does_not_read_costs_memory_for_posts_and_not_for_changes() -> None:
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p")
        node.changed("p", 1)
        gc.collect()
        before = len(gc.get_objects())
        for version in range(2, 20_000):
            node.changed("p", version)
        gc.collect()
        assert len(gc.get_objects()) - before < 100
        assert (await told(stream)).counts == {"p": PostCount(19_999, 19_999)}


async def test_too_many_posts_are_refused_and_none_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POSTS", 3)
    node = Node()
    with node.watches.stream("1") as stream:
        node.add(stream, "p", "q")
        with pytest.raises(ShardOverloaded):
            node.add(stream, "r", "s")
        assert len(stream) == 2
        node.add(stream, "p", "q", "r")


async def test_a_message_has_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UPDATES", 2)
    node = Node()
    with node.watches.stream("1") as stream:
        posts = [f"p{number}" for number in range(5)]
        node.add(stream, *posts)
        node.watches.publish({post_id: PostCount(1, 1) for post_id in posts})
        sizes = []
        for _ in range(3):
            sizes.append(len((await told(stream)).counts))
            node.clock.now += module.SPACING
        assert sizes == [2, 2, 1]
        node.hold({})
        gone = [len((await told(stream)).gone)]
        node.clock.now += module.SPACING
        gone.append(len((await told(stream)).gone))
        assert gone == [2, 2]
