"""Stale reads on their way to an owner or its replica, against real gRPC servers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from likering.errors import RouterOverloaded, ShardOverloaded, ShardUnavailable
from likering.ring.topology import Topology
from likering.shard.v1 import shard_service_pb2 as shard
from router.dispatch import Dispatch
from router.fragments import Row
from router.lane import LaneLimits
from router.operations import Operations
from router.replicas import OWNER_PATIENCE
from tests.parts.fake_shard import SLOTS, FakeShard, failing, fake_shards, post_in, topology_of
from tests.parts.until import until

CACHED, STRONG, STALE_OK = shard.READ_MODE_CACHED, shard.READ_MODE_STRONG, shard.READ_MODE_STALE_OK
OWNERS, REPLICAS = 2, 1
"""Likes of each post, as the owner and as the replica knows it."""


def with_replicas(topology: Topology, *replicas: FakeShard, of: str = "a") -> Topology:
    return dataclasses.replace(topology, replicas={of: tuple(replica.address for replica in replicas)})


async def connected(dispatch: Dispatch) -> None:
    clients = [*dispatch._nodes.values(), *dispatch._replicas._clients.values()]
    await until(lambda: all(client.connected for client in clients))


async def gone(dispatch: Dispatch, fake: FakeShard) -> None:
    await fake.stop(grace=0.1)
    await until(lambda: not dispatch._nodes[fake.name].connected)


@asynccontextmanager
async def owner_and_replica(
    limits: LaneLimits | None = None,
) -> AsyncIterator[tuple[Dispatch, FakeShard, FakeShard]]:
    """Connected to both."""
    async with fake_shards("a", "replica") as (owner, replica):
        for fake, likes in ((owner, OWNERS), (replica, REPLICAS)):
            for slot in range(SLOTS):
                fake.liked[post_in(slot)] = {f"u{number}": 1 for number in range(likes)}
                fake.versions[post_in(slot)] = likes
        dispatch = Dispatch(limits)
        dispatch.use(with_replicas(topology_of(owner), replica))
        await connected(dispatch)
        yield dispatch, owner, replica
        for fake in (owner, replica):
            fake.open.set()
        await dispatch.close()


async def count(
    dispatch: Dispatch, post: str = post_in(0), *, mode: int = STALE_OK, seconds: float = 5.0
) -> Row:
    return await dispatch.one(mode, shard.OP_KIND_COUNT, post, "", 0, 0, monotonic() + seconds, "request")


def counts(posts: Sequence[str]) -> Operations:
    size = len(posts)
    kinds = [shard.OP_KIND_COUNT] * size
    return Operations(STALE_OK, kinds, posts, [""] * size, [0] * size, [0] * size, "request")


async def test_while_the_owner_answers_no_replica_is_asked() -> None:
    async with owner_and_replica() as (dispatch, _owner, replica):
        assert (await count(dispatch))[1] == OWNERS
        rows, errors = await dispatch.many(counts([post_in(slot) for slot in range(SLOTS)]), monotonic() + 5)
        assert [row[1] for row in rows if row] == [OWNERS] * SLOTS
        assert not errors
        assert not replica.batches


async def test_an_owner_that_hangs_is_waited_for_a_moment() -> None:
    async with owner_and_replica() as (dispatch, owner, _replica):
        owner.open.clear()
        began = monotonic()
        assert (await count(dispatch))[1] == REPLICAS
        assert OWNER_PATIENCE <= monotonic() - began < 1


async def test_without_its_owner_a_post_is_read_from_the_replica_at_once() -> None:
    async with owner_and_replica() as (dispatch, owner, _replica):
        await gone(dispatch, owner)
        began = monotonic()
        assert (await count(dispatch))[1] == REPLICAS
        assert monotonic() - began < OWNER_PATIENCE
        rows, errors = await dispatch.many(counts([post_in(0), post_in(1)]), monotonic() + 5)
        assert [row[1] for row in rows if row] == [REPLICAS] * 2
        assert not errors


@pytest.mark.parametrize("mode", [CACHED, STRONG])
@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_other_reads_never_come_to_a_replica(mode: int, how: str) -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        if how == "hangs":
            owner.open.clear()
            reading = asyncio.create_task(count(dispatch, mode=mode))
            await asyncio.wait((reading,), timeout=2 * OWNER_PATIENCE)
            assert not reading.done()
            reading.cancel()
        else:
            await gone(dispatch, owner)
            with pytest.raises(ShardUnavailable):
                await count(dispatch, mode=mode, seconds=2 * OWNER_PATIENCE)
        assert not replica.batches


async def test_only_what_the_owner_cannot_answer_is_asked_of_the_replica() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):

        def second_unavailable(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
            response.codes[1] = shard.OP_CODE_UNAVAILABLE

        owner.answering.append(second_unavailable)
        posts = [post_in(slot) for slot in range(3)]
        rows, errors = await dispatch.many(counts(posts), monotonic() + 5)
        assert not errors
        assert [row[1] for row in rows if row] == [OWNERS, REPLICAS, OWNERS]
        assert [post for _, post, _ in replica.operations] == [posts[1]]
        assert len(owner.batches) == 1


@pytest.mark.parametrize("code", [shard.OP_CODE_NOT_OWNER, shard.OP_CODE_MOVING])
async def test_a_slot_that_moves_is_no_matter_of_the_replica(code: shard.OpCode.ValueType) -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        owner.answering += [failing(code)] * 3
        assert (await count(dispatch))[1] == OWNERS
        assert not replica.batches


async def test_an_owner_that_refuses_is_there() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):

        def overloaded(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
            raise ShardOverloaded

        owner.answering.append(overloaded)
        with pytest.raises(ShardOverloaded):
            await count(dispatch)
        assert not replica.batches


async def test_the_first_good_answer_counts() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        owner.open.clear()
        replica.open.clear()
        reading = asyncio.create_task(count(dispatch))
        await until(lambda: bool(replica.batches))
        owner.open.set()
        assert (await reading)[1] == OWNERS


@pytest.mark.parametrize("code", [shard.OP_CODE_NOT_OWNER, shard.OP_CODE_MOVING, shard.OP_CODE_UNAVAILABLE])
async def test_what_the_replica_lacks_is_waited_for(code: shard.OpCode.ValueType) -> None:
    """It may be behind; in the end the owner is what was not available."""
    async with owner_and_replica() as (dispatch, owner, replica):
        await gone(dispatch, owner)
        replica.answering += [failing(code)] * 50
        with pytest.raises(ShardUnavailable):
            await count(dispatch, seconds=0.3)
        replica.answering[:] = [failing(code)]
        rows, errors = await dispatch.many(counts([post_in(0), post_in(1)]), monotonic() + 5)
        assert not errors
        assert [row[1] for row in rows if row] == [REPLICAS] * 2


async def test_a_slow_owner_is_good_when_the_replica_has_nothing() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        owner.open.clear()
        replica.answering.append(failing(shard.OP_CODE_NOT_OWNER))
        reading = asyncio.create_task(count(dispatch))
        await until(lambda: bool(replica.batches) and not replica.answering)
        done, _ = await asyncio.wait((reading,), timeout=0.1)
        assert not done
        owner.open.set()
        assert (await reading)[1] == OWNERS
        assert len(owner.batches) == 1


async def test_what_waits_for_a_slot_that_has_moved_goes_to_its_new_owner() -> None:
    async with (
        fake_shards("b") as (b,),
        owner_and_replica(LaneLimits(batches_in_flight=1)) as (dispatch, owner, replica),
    ):
        owner.open.clear()
        first = asyncio.create_task(count(dispatch))
        await until(lambda: len(owner.batches) == 1)
        queued = asyncio.create_task(count(dispatch, post_in(1)))
        await asyncio.sleep(0)
        b.epochs, b.liked = {1: 2}, {post_in(1): {"u": 1, "v": 1, "w": 1}}
        owners: dict[int, FakeShard | None] = {**dict.fromkeys(range(SLOTS), owner), 1: b}
        dispatch.use(with_replicas(topology_of(owners, version=2, epochs={1: 2}), replica))
        assert (await queued)[1] == 3
        assert (await first)[1] == REPLICAS
        assert [post for _, post, _ in replica.operations] == [post_in(0)]


async def test_any_replica_that_is_there_will_do() -> None:
    async with fake_shards("gone") as (away,), owner_and_replica() as (dispatch, owner, replica):
        dispatch.use(with_replicas(topology_of(owner, version=2), away, replica))
        await connected(dispatch)
        await gone(dispatch, owner)
        await away.stop(grace=0.1)
        await until(lambda: not dispatch._replicas._clients[away.address].connected)
        for _ in range(10):
            assert (await count(dispatch))[1] == REPLICAS


async def test_a_read_that_waits_hears_of_a_replica_that_comes() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        address = replica.address
        await replica.stop(grace=0.1)
        await gone(dispatch, owner)
        reading = asyncio.create_task(count(dispatch, seconds=20))
        await until(lambda: dispatch.waiting_operations == 1)
        await replica.start(address)
        assert (await reading)[1] == REPLICAS


async def test_a_full_queue_is_told_at_once() -> None:
    async with owner_and_replica(LaneLimits(queued_operations=2)) as (dispatch, _owner, _replica):
        with pytest.raises(RouterOverloaded):
            await dispatch.many(counts([post_in(slot) for slot in range(3)]), monotonic() + 5)


async def test_a_cancelled_read_leaves_nothing_behind() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        owner.open.clear()
        replica.open.clear()
        reading = asyncio.create_task(count(dispatch))
        await until(lambda: bool(replica.batches))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: not dispatch._replicas._tasks)


async def test_a_replica_that_left_the_topology_is_disconnected() -> None:
    async with owner_and_replica() as (dispatch, owner, replica):
        dispatch.use(topology_of(owner, version=2))
        assert not dispatch._replicas._clients
        await gone(dispatch, owner)
        with pytest.raises(ShardUnavailable):
            await count(dispatch, seconds=0.3)
        assert not replica.batches
