"""Operations on their way to the nodes that own their slots, against real gRPC servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from likering.errors import (
    IntentInFuture,
    IntentTooOld,
    InternalError,
    NoSynchronousStandby,
    RouterOverloaded,
    ShardOverloaded,
    ShardUnavailable,
    SlotMoving,
    StorageFull,
    TopologyUnavailable,
    VersionAhead,
    WrongCluster,
)
from likering.shard.v1 import shard_service_pb2 as shard
from router.dispatch import Dispatch
from router.fragments import Row
from router.lane import LaneLimits
from router.operations import WRITES, Operations
from tests.parts.fake_shard import SLOTS, FakeShard, failing, fake_shards, post_in, topology_of
from tests.parts.until import until

CHANGED, UNCHANGED = shard.OP_OUTCOME_CHANGED, shard.OP_OUTCOME_UNCHANGED
CACHED = shard.READ_MODE_CACHED


class Nudges:
    """Counts how often a newer topology was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def refresh_soon(self) -> None:
        self.asked += 1


@asynccontextmanager
async def dispatching(*fakes: FakeShard, limits: LaneLimits | None = None) -> AsyncIterator[Dispatch]:
    """A dispatch; with shards, connected to them, the first of which owns all slots."""
    dispatch = Dispatch(limits)
    dispatch.source = Nudges()
    if fakes:
        dispatch.use(topology_of(fakes[0], nodes=fakes))
        await connected(dispatch)
    yield dispatch
    for fake in fakes:
        fake.open.set()
    await dispatch.close()


async def connected(dispatch: Dispatch) -> None:
    await until(lambda: all(node.connected for node in dispatch._nodes.values()))


async def like(
    dispatch: Dispatch, post: str = "p1", user: str = "u", *, intent: int = 0, seconds: float = 5.0
) -> Row:
    return await dispatch.one(
        WRITES, shard.OP_KIND_LIKE, post, user, intent, 0, monotonic() + seconds, "request"
    )


async def count(dispatch: Dispatch, post: str = "p1", *, seconds: float = 5.0) -> Row:
    return await dispatch.one(CACHED, shard.OP_KIND_COUNT, post, "", 0, 0, monotonic() + seconds, "request")


def likes(posts: Sequence[str], *, intents: Sequence[int] | None = None) -> Operations:
    size = len(posts)
    users = [f"u{number}" for number in range(size)]
    return Operations(
        WRITES, [shard.OP_KIND_LIKE] * size, posts, users, intents or [0] * size, [0] * size, "request"
    )


def refusing(error: Exception) -> Any:
    def answer(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        raise error

    return answer


async def test_one_operation_gets_its_row() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        assert (await like(dispatch))[:3] == (CHANGED, 1, 1)
        assert (await like(dispatch))[:3] == (UNCHANGED, 1, 1)
        outcome, number, version, like_time, source, as_of = await count(dispatch)
        assert (outcome, number, version, like_time, source) == (0, 1, 1, 0, shard.COUNT_SOURCE_CACHE)
        assert as_of > 0
        assert [batch.read_mode for batch in a.batches] == [WRITES, WRITES, CACHED]


async def test_many_operations_are_split_by_owner_and_keep_their_order() -> None:
    async with fake_shards("a", "b") as (a, b), dispatching(a, b) as dispatch:
        dispatch.use(topology_of({slot: (a, b)[slot % 2] for slot in range(SLOTS)}, version=2))
        posts = [post_in(slot) for slot in (0, 1, 2, 1, 0, 3, 1)]
        rows, errors = await dispatch.many(likes(posts), monotonic() + 5)
        assert not errors
        assert [row[1] for row in rows if row] == [1, 1, 1, 2, 2, 1, 3]
        assert [post for _, post, _ in a.operations] == [posts[index] for index in (0, 2, 4)]
        assert [post for _, post, _ in b.operations] == [posts[index] for index in (1, 3, 5, 6)]
        assert len(a.batches) == len(b.batches) == 1


async def test_before_the_first_topology_calls_wait_for_it() -> None:
    async with fake_shards("a") as (a,), dispatching() as dispatch:
        early = asyncio.create_task(like(dispatch))
        await until(lambda: dispatch.waiting_operations == 1)
        dispatch.use(topology_of(a))
        assert (await early)[0] == CHANGED
        await dispatch.close()


async def test_without_a_topology_a_call_hears_so_before_its_deadline() -> None:
    async with dispatching() as dispatch:
        with pytest.raises(TopologyUnavailable):
            await like(dispatch, seconds=0.3)


async def test_a_slot_without_owner_is_waited_for() -> None:
    async with fake_shards("a") as (a,), dispatching() as dispatch:
        dispatch.use(topology_of({0: None}, nodes=[a]))
        with pytest.raises(ShardUnavailable):
            await like(dispatch, post_in(3), seconds=0.2)
        waiting = asyncio.create_task(like(dispatch, post_in(3)))
        await until(lambda: dispatch.waiting_operations == 1)
        dispatch.use(topology_of(a, version=2))
        assert (await waiting)[0] == CHANGED
        await dispatch.close()


async def test_a_moved_slot_is_found_at_its_new_owner() -> None:
    async with fake_shards("a", "b") as (a, b), dispatching(a, b) as dispatch:
        nudges = dispatch.source
        assert isinstance(nudges, Nudges)
        a.epochs.clear()
        b.epochs = dict.fromkeys(range(SLOTS), 2)
        a.topology_version = 2
        waiting = asyncio.create_task(like(dispatch))
        await until(lambda: nudges.asked > 0)
        dispatch.use(topology_of(b, version=2, nodes=[a], epochs=dict.fromkeys(range(SLOTS), 2)))
        assert (await waiting)[0] == CHANGED
        assert b.batches[-1].epochs == [2]


async def test_a_node_that_has_not_heard_of_its_slot_yet_is_asked_again() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering += [failing(shard.OP_CODE_NOT_OWNER)] * 3
        rows, errors = await dispatch.many(likes([post_in(0), post_in(1)]), monotonic() + 5)
        assert not errors
        assert len(a.batches) == 4
        assert None not in rows


async def test_a_slot_that_moves_for_too_long_is_an_error_in_time() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.epochs.clear()
        started = monotonic()
        with pytest.raises(SlotMoving):
            await like(dispatch, seconds=0.5)
        assert monotonic() - started < 0.5
        assert not a.liked.get("p1")


async def test_only_what_failed_is_sent_again_in_its_order() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        posts = [post_in(slot) for slot in (0, 1, 0, 2, 0)]
        del a.epochs[0]

        def comes_back(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
            a.epochs[0] = 1

        a.answering.append(comes_back)
        rows, errors = await dispatch.many(likes(posts), monotonic() + 5)
        assert not errors
        assert [row[1] for row in rows if row] == [1, 1, 2, 1, 3]
        assert [user for _, _, user in a.operations] == ["u0", "u1", "u2", "u3", "u4", "u0", "u2", "u4"]


async def test_an_unavailable_database_is_waited_for() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering += [failing(shard.OP_CODE_UNAVAILABLE), refusing(ShardUnavailable())]
        assert (await like(dispatch))[1] == 1
        a.answering += [failing(shard.OP_CODE_UNAVAILABLE)] * 100
        with pytest.raises(ShardUnavailable) as caught:
            await like(dispatch, seconds=0.4)
        assert "outcome" not in caught.value.metadata


async def test_a_missing_standby_is_waited_for_and_named() -> None:
    """After a failover the next standby needs a moment; a write that has waited in vain was not executed."""
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(failing(shard.OP_CODE_NO_STANDBY))
        assert (await like(dispatch))[1] == 1
        a.answering += [failing(shard.OP_CODE_NO_STANDBY)] * 100
        with pytest.raises(NoSynchronousStandby) as caught:
            await like(dispatch, seconds=0.4)
        assert "outcome" not in caught.value.metadata


async def test_an_unknown_outcome_of_a_write_without_intent_is_told() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(failing(shard.OP_CODE_UNKNOWN_OUTCOME))
        with pytest.raises(ShardUnavailable) as caught:
            await like(dispatch)
        assert caught.value.metadata == {"outcome": "unknown"}
        assert len(a.batches) == 1


async def test_an_unknown_outcome_of_a_write_with_intent_is_tried_again() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(failing(shard.OP_CODE_UNKNOWN_OUTCOME))
        assert (await like(dispatch, intent=5))[:2] == (UNCHANGED, 1)
        a.answering += [failing(shard.OP_CODE_UNKNOWN_OUTCOME)] * 100
        with pytest.raises(ShardUnavailable) as caught:
            await like(dispatch, intent=6, seconds=0.3)
        assert caught.value.metadata == {"outcome": "unknown"}


async def test_a_read_is_tried_again_whatever_happened_to_it() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering += [failing(shard.OP_CODE_UNKNOWN_OUTCOME), failing(shard.OP_CODE_UNAVAILABLE)]
        assert (await count(dispatch))[1] == 0
        assert len(a.batches) == 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (shard.OP_CODE_INTENT_IN_FUTURE, IntentInFuture),
        (shard.OP_CODE_INTENT_TOO_OLD, IntentTooOld),
        (shard.OP_CODE_VERSION_AHEAD, VersionAhead),
        (shard.OP_CODE_STORAGE_FULL, StorageFull),
    ],
)
async def test_final_codes_are_errors_at_once(code: shard.OpCode.ValueType, error: type[Exception]) -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(failing(code))
        with pytest.raises(error):
            await like(dispatch)
        assert len(a.batches) == 1


async def test_an_overloaded_shard_is_not_asked_again() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(refusing(ShardOverloaded(retry_after=1.5)))
        with pytest.raises(ShardOverloaded) as caught:
            await like(dispatch)
        assert caught.value.retry_after == 1.5
        assert len(a.batches) == 1


async def test_a_bug_of_the_shard_is_a_bug() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering.append(refusing(RuntimeError("secret")))
        with pytest.raises(InternalError) as caught:
            await like(dispatch)
        assert "secret" not in str(caught.value)


async def test_another_clusters_node_at_the_address_is_no_matter_of_the_callers() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.answering += [refusing(WrongCluster())] * 100
        with pytest.raises(ShardUnavailable):
            await like(dispatch, seconds=0.2)


async def test_a_node_that_comes_back_gets_what_waited() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        address = a.address
        await a.stop()
        await until(lambda: not any(node.connected for node in dispatch._nodes.values()))
        waiting = asyncio.gather(*(like(dispatch, user=f"u{number}", seconds=20) for number in range(20)))
        await until(lambda: dispatch.waiting_operations == 20)
        await a.start(address)
        rows = await waiting
        assert sorted(row[1] for row in rows) == list(range(1, 21))


async def test_a_node_that_stays_away_is_an_error_before_the_deadline() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        await a.stop()
        await until(lambda: not any(node.connected for node in dispatch._nodes.values()))
        started = monotonic()
        with pytest.raises(ShardUnavailable) as caught:
            await like(dispatch, seconds=0.3)
        assert monotonic() - started < 0.3
        assert "outcome" not in caught.value.metadata


async def test_a_taken_over_node_is_called_at_its_new_address_at_once() -> None:
    """What was in flight to the old process is given up: reads and writes with intent go again."""
    async with fake_shards("a", "a2") as (old, new), dispatching(old) as dispatch:
        old.open.clear()
        plain = asyncio.create_task(like(dispatch, user="plain"))
        stamped = asyncio.create_task(like(dispatch, user="stamped", intent=5))
        read = asyncio.create_task(count(dispatch))
        await until(lambda: len(old.operations) == 3)
        dispatch.use(topology_of(old, version=2, addresses={"a": new.address}, generation=2))
        assert (await stamped)[1] == 1
        assert (await read)[1] in (0, 1)
        with pytest.raises(ShardUnavailable) as caught:
            await plain
        assert caught.value.metadata == {"outcome": "unknown"}
        assert new.batches[0].lowest_batch_number > max(batch.batch_number for batch in old.batches)


async def test_a_process_that_began_anew_at_its_address_keeps_the_calls_it_has() -> None:
    """A router may be connected to it before it hears of it: a like is executed once, and told as what it was."""
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        a.open.clear()
        plain = asyncio.create_task(like(dispatch, user="plain"))
        stamped = asyncio.create_task(like(dispatch, user="stamped", intent=5))
        await until(lambda: len(a.operations) == 2)
        dispatch.use(topology_of(a, version=2, generation=2))
        later = asyncio.create_task(like(dispatch, user="later"))
        a.open.set()
        assert [(await call)[0] for call in (plain, stamped, later)] == [CHANGED] * 3
        assert len(a.operations) == 3


async def test_what_is_queued_for_a_slot_that_moved_goes_to_its_new_owner() -> None:
    async with (
        fake_shards("a", "b") as (a, b),
        dispatching(a, b, limits=LaneLimits(batches_in_flight=1)) as dispatch,
    ):
        a.open.clear()
        first = asyncio.create_task(like(dispatch, post_in(0)))
        await until(lambda: len(a.batches) == 1)
        queued = asyncio.create_task(dispatch.many(likes([post_in(0), post_in(1)]), monotonic() + 5))
        await asyncio.sleep(0)
        b.epochs = {1: 2}
        dispatch.use(
            topology_of({**dict.fromkeys(range(SLOTS), a), 1: b}, version=2, epochs={1: 2}),
        )
        await until(lambda: len(b.batches) == 1)
        a.open.set()
        rows, errors = await queued
        assert not errors
        assert [row[1] for row in rows if row] == [2 if (await first)[1] == 1 else 1, 1]
        assert [post for _, post, _ in b.operations] == [post_in(1)]


async def test_with_patience_the_rest_is_answered_in_time() -> None:
    async with fake_shards("a", "b") as (a, b), dispatching(a, b) as dispatch:
        dispatch.use(topology_of({slot: (a, b)[slot % 2] for slot in range(SLOTS)}, version=2))
        b.open.clear()
        posts = [post_in(slot) for slot in range(4)]
        operations = Operations(
            CACHED, [shard.OP_KIND_COUNT] * 4, posts, [""] * 4, [0] * 4, [0] * 4, "request"
        )
        started = monotonic()
        rows, errors = await dispatch.many(operations, monotonic() + 60, patience=0.2)
        assert monotonic() - started < 5
        assert [row is not None for row in rows] == [True, False, True, False]
        assert sorted(errors) == [1, 3]
        assert all(isinstance(error, ShardUnavailable) for error in errors.values())


async def test_a_call_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    async with (
        fake_shards("a", "b") as (a, b),
        dispatching(a, b, limits=LaneLimits(queued_operations=5)) as dispatch,
    ):
        dispatch.use(topology_of({slot: (a, b)[slot % 2] for slot in range(SLOTS)}, version=2))
        posts = [post_in(0), *[post_in(1)] * 6]
        with pytest.raises(RouterOverloaded) as caught:
            await dispatch.many(likes(posts), monotonic() + 5)
        assert caught.value.retry_after
        assert not a.batches
        assert not b.batches


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async with fake_shards("a") as (a,), dispatching(a) as dispatch:
        await a.stop()
        await until(lambda: not any(node.connected for node in dispatch._nodes.values()))
        waiting = asyncio.create_task(dispatch.many(likes(["p1", "p2"]), monotonic() + 60))
        await until(lambda: dispatch.waiting_operations == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert dispatch.waiting_operations == 0


async def test_a_node_that_left_the_topology_is_disconnected() -> None:
    async with fake_shards("a", "b") as (a, b), dispatching(a, b) as dispatch:
        dispatch.use(topology_of(a, version=2))
        assert list(dispatch._nodes) == ["a"]
        assert (await like(dispatch))[0] == CHANGED
