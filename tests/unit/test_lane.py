"""What a lane gathers and sends, to a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from likering.errors import InternalError, RouterOverloaded, ShardOverloaded, StorageFull
from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import Fate, Fragment
from router.lane import Lane, LaneLimits
from router.node_client import NodeClient
from router.operations import WRITES
from router.pace import Pace
from tests.parts.fake_shard import CLUSTER, FakeShard, fake_shards
from tests.parts.until import until


class Rig:
    """A shard, the connection to it, and lanes on that."""

    def __init__(self, fake: FakeShard, node: NodeClient) -> None:
        self.fake = fake
        self.node = node

    def lane(self, limits: LaneLimits | None = None, read_mode: int = WRITES) -> Lane:
        return Lane(self.node, read_mode, CLUSTER, limits or LaneLimits(company=1), Pace())

    async def hold(self, lane: Lane, batches: int = 2) -> list[Fragment]:
        """Makes so many batches be in flight and stay there."""
        self.fake.open.clear()
        held = []
        for number in range(batches):
            held.append(fragment(f"held{number}"))
            lane.submit(held[-1])
            await until(lambda: len(self.fake.batches) == len(held))
        return held


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with fake_shards("a") as (fake,):
        node = NodeClient("a", "session")
        node.connect(fake.address, 1)
        await until(lambda: node.connected)
        yield Rig(fake, node)
        fake.open.set()
        await node.close()


def fragment(
    user: str = "u", size: int = 1, *, seconds: float = 5.0, intent: int = 0, min_version: int = 0
) -> Fragment:
    users = [f"{user}.{index}" if size > 1 else user for index in range(size)]
    return Fragment(
        [shard.OP_KIND_LIKE] * size,
        ["p"] * size,
        users,
        [intent] * size,
        [1] * size,
        [min_version] * size,
        monotonic() + seconds,
        f"request of {user}",
        asyncio.get_running_loop().create_future(),
    )


def users_of(batch: shard.ExecuteRequest) -> list[str]:
    return list(batch.user_ids)


async def test_an_idle_lane_sends_a_single_operation_at_once(rig: Rig) -> None:
    lane = rig.lane()
    only = fragment("u1")
    lane.submit(only)
    assert await only.future is Fate.ANSWERED
    assert only.answer.rows[only.offset][:3] == (shard.OP_OUTCOME_CHANGED, 1, 1)
    assert only.answer.codes is None
    (batch,) = rig.fake.batches
    assert (batch.cluster_id, batch.session_id, batch.batch_number) == (CLUSTER, "session", 1)
    assert batch.request_id == "request of u1"


async def test_calls_of_one_tick_travel_together_and_get_their_own_rows(rig: Rig) -> None:
    lane = rig.lane()
    fragments = [fragment("u1"), fragment("u2", 3), fragment("u3")]
    for each in fragments:
        lane.submit(each)
    assert [await each.future for each in fragments] == [Fate.ANSWERED] * 3
    (batch,) = rig.fake.batches
    assert users_of(batch) == ["u1", "u2.0", "u2.1", "u2.2", "u3"]
    counts = [[row[1] for row in each.answer.rows[each.offset :][: len(each.kinds)]] for each in fragments]
    assert counts == [[1], [2, 3, 4], [5]]


async def test_while_two_batches_are_in_flight_the_next_one_gathers(rig: Rig) -> None:
    lane = rig.lane()
    held = await rig.hold(lane)
    gathered = [fragment(f"u{number}") for number in range(10)]
    for each in gathered:
        lane.submit(each)
        await asyncio.sleep(0)
    assert len(rig.fake.batches) == 2
    rig.fake.open.set()
    assert [await each.future for each in held + gathered] == [Fate.ANSWERED] * 12
    assert [len(batch.kinds) for batch in rig.fake.batches] == [1, 1, 10]


async def test_a_few_calls_wait_for_the_batch_in_flight(rig: Rig) -> None:
    """A batch costs more than what it carries: a second one in flight needs company."""
    limits = LaneLimits()
    lane = rig.lane(limits)
    rig.fake.open.clear()
    first = fragment("first")
    lane.submit(first)
    await until(lambda: len(rig.fake.batches) == 1)
    few = [fragment(f"u{number}") for number in range(limits.company - 1)]
    for each in few:
        lane.submit(each)
        await asyncio.sleep(0)
    assert len(rig.fake.batches) == 1
    last = fragment("last")
    lane.submit(last)
    await until(lambda: len(rig.fake.batches) == 2)
    rig.fake.open.set()
    assert {await each.future for each in [first, *few, last]} == {Fate.ANSWERED}
    assert [len(batch.kinds) for batch in rig.fake.batches] == [1, limits.company]


async def test_a_batch_has_a_size_and_a_fragment_is_never_split(rig: Rig) -> None:
    lane = rig.lane(LaneLimits(batch_operations=10, company=1))
    held = await rig.hold(lane)
    gathered = [fragment("a", 6), fragment("b", 4), fragment("c", 1), fragment("d", 25), fragment("e", 2)]
    for each in gathered:
        lane.submit(each)
    rig.fake.open.set()
    await asyncio.gather(*(each.future for each in held + gathered))
    sizes = [len(batch.kinds) for batch in rig.fake.batches[2:]]
    assert sorted(sizes) == [1, 2, 10, 25]
    # Two batches in flight may overtake each other on their way; each fragment is whole nevertheless.
    firsts = sorted(users_of(batch)[0] for batch in rig.fake.batches[2:])
    assert firsts == ["a.0", "c", "d.0", "e.0"]


async def test_columns_of_zeros_are_left_out(rig: Rig) -> None:
    lane = rig.lane()
    plain = fragment("u1")
    lane.submit(plain)
    await plain.future
    special = [fragment("u2", intent=7), fragment("u3", min_version=9)]
    for each in special:
        lane.submit(each)
    await asyncio.gather(*(each.future for each in special))
    first, second = rig.fake.batches
    assert (list(first.intent_times), list(first.min_versions)) == ([], [])
    assert (list(second.intent_times), list(second.min_versions)) == ([7, 0], [0, 9])


async def test_what_nobody_waits_for_any_more_is_not_sent(rig: Rig) -> None:
    lane = rig.lane()
    held = await rig.hold(lane)
    cancelled, expired, live = fragment("cancelled"), fragment("expired", seconds=0), fragment("live")
    for each in (cancelled, expired, live):
        lane.submit(each)
    cancelled.future.cancel()
    rig.fake.open.set()
    assert await live.future is Fate.ANSWERED
    assert await expired.future is Fate.NOT_SENT
    await asyncio.gather(*(each.future for each in held))
    assert users_of(rig.fake.batches[2]) == ["live"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(rig: Rig) -> None:
    lane = rig.lane(LaneLimits(queued_operations=10, company=1))
    held = await rig.hold(lane)
    queued = fragment("queued", 8)
    lane.submit(queued)
    assert lane.has_room(2)
    assert not lane.has_room(3)
    with pytest.raises(RouterOverloaded) as caught:
        lane.submit(fragment("refused", 3))
    assert caught.value.retry_after
    rig.fake.open.set()
    await asyncio.gather(*(each.future for each in (*held, queued)))
    assert lane.has_room(10)


async def test_calls_that_were_cancelled_take_no_room(rig: Rig) -> None:
    lane = rig.lane(LaneLimits(queued_operations=10, company=1))
    held = await rig.hold(lane)
    abandoned = [fragment(f"u{number}", 5) for number in range(2)]
    for each in abandoned:
        lane.submit(each)
        each.future.cancel()
    live = fragment("live", 10)
    lane.submit(live)
    rig.fake.open.set()
    await asyncio.gather(*(each.future for each in (*held, live)))


async def test_without_a_connection_nothing_is_sent(rig: Rig) -> None:
    lane = rig.lane()
    held = await rig.hold(lane)
    waiting = fragment("waiting")
    lane.submit(waiting)
    await rig.node.close()
    refused = fragment("refused")
    lane.submit(refused)
    assert await refused.future is Fate.NOT_SENT
    lane.flush()
    assert await waiting.future is Fate.NOT_SENT
    assert [await each.future for each in held] == [Fate.LOST] * 2


async def test_an_error_for_the_whole_batch_reaches_each_fragment(rig: Rig) -> None:
    def overloaded(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        raise ShardOverloaded(retry_after=0.5)

    rig.fake.answering.append(overloaded)
    lane = rig.lane()
    fragments = [fragment("u1"), fragment("u2")]
    for each in fragments:
        lane.submit(each)
    assert [await each.future for each in fragments] == [Fate.REFUSED] * 2
    for each in fragments:
        assert isinstance(each.error, ShardOverloaded)
        assert each.error.retry_after == 0.5


async def test_an_answer_whose_columns_do_not_fit_counts_as_lost(rig: Rig) -> None:
    def too_short(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        del response.counts[-1]

    rig.fake.answering.append(too_short)
    lane = rig.lane()
    only = fragment("u1", 3)
    lane.submit(only)
    assert await only.future is Fate.LOST


async def test_a_batch_that_was_given_up_is_named_in_the_next(rig: Rig) -> None:
    """A node that gets it late refuses it: it is below the lowest number that the session stands by."""

    def full(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        raise StorageFull

    lane = rig.lane()
    first = fragment("u1")
    rig.fake.answering.append(full)
    lane.submit(first)
    assert await first.future is Fate.REFUSED
    second = fragment("u2")
    lane.submit(second)
    await second.future
    assert [(batch.batch_number, batch.lowest_batch_number) for batch in rig.fake.batches] == [(1, 1), (2, 2)]


async def test_a_lane_waits_at_most_for_the_latest_deadline(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.lane._MIN_TIMEOUT", 0.1)
    lane = rig.lane()
    rig.fake.open.clear()
    short, long = fragment("short", seconds=0.1), fragment("long", seconds=0.4)
    started = monotonic()
    lane.submit(short)
    lane.submit(long)
    assert await long.future is Fate.LOST
    assert 0.35 < monotonic() - started < 3
    assert await short.future is Fate.LOST


async def test_a_bug_while_sending_answers_those_who_wait(rig: Rig) -> None:
    lane = rig.lane()
    impossible = fragment("u", min_version=2**70)
    lane.submit(impossible)
    assert await impossible.future is Fate.REFUSED
    assert isinstance(impossible.error, InternalError)
