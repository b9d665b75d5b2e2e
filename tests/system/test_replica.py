"""Stale reads while a node is gone, by a replica process on a streaming standby of its Postgres."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest

from likering.dev.cluster import EmbeddedCluster
from likering.dev.service import Service
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.shard.v1 import shard_service_pb2 as shard
from likering.shard.v1.shard_service_pb2_grpc import ShardServiceStub
from likering.topology.moves import MoveState
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from likering.v1 import like_service_pb2 as api
from shard_node.packed_ids import pack
from tests.parts.apply_move import apply
from tests.parts.replica import replica_of
from tests.parts.standby import Standby
from tests.parts.stubs import like_stub
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)

SLOTS = 8
NODE, OTHER = "a", "b"
STALE_OK = api.CONSISTENCY_STALE_OK
MICROS = 1_000_000


@dataclass
class Replicated:
    """A cluster of two nodes; one of them has a standby, and a replica process on it."""

    cluster: EmbeddedCluster
    standby: Standby
    replica: Service

    async def topology(self) -> Topology:
        store = PostgresTopologyStore(self.cluster.topology_dsn)
        try:
            return await store.get()
        finally:
            await store.close()

    async def registered(self) -> None:
        """Waits until the topology has the replica."""
        store = PostgresTopologyStore(self.cluster.topology_dsn)
        try:
            async with asyncio.timeout(20), aclosing(store.changes()) as changes:
                async for _ in changes:
                    if (await store.get()).replicas == {NODE: (self.replica.address,)}:
                        break
        finally:
            await store.close()

    async def post(self, number: int = 0) -> str:
        """One of those that the node owns."""
        owners = (await self.topology()).owners
        posts = (f"post-{candidate}" for candidate in itertools.count())
        own = (post for post in posts if owners[slot_of(post, SLOTS)] == NODE)
        return next(itertools.islice(own, number, None))

    def version_at_standby(self, post: str) -> int:
        with psycopg.connect(self.standby.dsn, autocommit=True) as connection:
            row = connection.execute(
                "SELECT version FROM likering.posts WHERE post_id = %s", [pack(post)]
            ).fetchone()
        return int(row[0]) if row else 0

    async def replayed(self, post: str, version: int) -> None:
        """Waits until the standby has that version of the post."""
        await until(lambda: self.version_at_standby(post) >= version)

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        self.cluster.kill(NODE, part, number)

    async def start_again(self) -> None:
        for kind in ("postgres", "node"):
            part = self.cluster.parts[NODE, kind]
            if not part.is_serving:
                await asyncio.to_thread(part.start)


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    directory = tmp_path_factory.mktemp("replicated")
    with (
        EmbeddedCluster(directory / "cluster", nodes=[NODE, OTHER], slots=SLOTS, supervise=False) as cluster,
        replica_of(cluster, NODE, directory) as (standby, replica),
    ):
        yield Replicated(cluster, standby, replica)


@pytest.fixture
async def likes(replicated: Replicated) -> AsyncIterator[Likes]:
    """Calls of a router that is connected to the replica."""
    log = replicated.cluster.directory / "logs" / "router.log"
    await until(lambda: f'"replica {replicated.replica.address}"' in log.read_text())
    async with grpc.aio.insecure_channel(replicated.cluster.address) as channel:
        yield Likes(channel)


class Likes:
    """The calls that the tests make."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = like_stub(channel)

    async def like(self, user: str, post: str, *, timeout: float = 20) -> int:
        """The post's version after it. With an intent, so that the router may try again."""
        request = api.LikeRequest(user_id=user, post_id=post)
        request.intent_time.FromMicroseconds(now())
        response = await self._stub.Like(request, timeout=timeout)
        return response.like_count.version

    async def count(
        self, post: str, consistency: api.Consistency.ValueType = STALE_OK, *, timeout: float = 10
    ) -> api.LikeCount:
        request = api.GetLikeCountRequest(post_id=post, consistency=consistency)
        return (await self._stub.GetLikeCount(request, timeout=timeout)).like_count

    async def has_liked(
        self, user: str, post: str, consistency: api.Consistency.ValueType = STALE_OK, *, timeout: float = 10
    ) -> api.HasLikedResponse:
        request = api.HasLikedRequest(user_id=user, post_id=post, consistency=consistency)
        return await self._stub.HasLiked(request, timeout=timeout)

    async def summary(
        self,
        post: str,
        viewer: str,
        consistency: api.Consistency.ValueType = STALE_OK,
        *,
        timeout: float = 10,
    ) -> api.LikeSummary:
        request = api.GetLikeSummariesRequest(post_ids=[post], viewer_user_id=viewer, consistency=consistency)
        return (await self._stub.GetLikeSummaries(request, timeout=timeout)).summaries[0]

    async def filtered(
        self,
        post: str,
        users: list[str],
        consistency: api.Consistency.ValueType = STALE_OK,
        *,
        timeout: float = 10,
    ) -> api.FilterLikersResponse:
        request = api.FilterLikersRequest(post_id=post, user_ids=users, consistency=consistency)
        return await self._stub.FilterLikers(request, timeout=timeout)

    async def likers(self, post: str, *, timeout: float) -> api.ListLikersResponse:
        return await self._stub.ListLikers(api.ListLikersRequest(post_id=post), timeout=timeout)

    async def liked_posts(self, user: str, *, timeout: float) -> api.ListLikedPostsResponse:
        return await self._stub.ListLikedPosts(api.ListLikedPostsRequest(user_id=user), timeout=timeout)


def micros(answer: api.LikeCount | api.HasLikedResponse | api.FilterLikersResponse) -> int:
    return answer.as_of_time.ToMicroseconds()


def now() -> int:
    return time.time_ns() // 1000


async def test_while_the_owner_is_there_nothing_is_stale(replicated: Replicated, likes: Likes) -> None:
    post = await replicated.post()
    version = await likes.like("u1", post)
    count = await likes.count(post)
    assert (count.version, count.count) == (version, 1)
    assert count.exactness in (api.EXACTNESS_EXACT, api.EXACTNESS_CACHED)


async def test_while_the_owner_is_gone_its_replica_answers(replicated: Replicated, likes: Likes) -> None:
    """With what had been replayed, marked stale, as of a time that is not before the last of it."""
    post = await replicated.post(1)
    await likes.like("u1", post)
    before = now()
    version = await likes.like("u2", post)
    await replicated.replayed(post, version)
    for part in ("node", "postgres"):
        replicated.kill(part)
    killed = now()
    try:
        count = await likes.count(post)
        assert (count.count, count.version, count.exactness) == (2, version, api.EXACTNESS_STALE)
        assert before <= micros(count) <= killed
        liked, not_liked = await likes.has_liked("u2", post), await likes.has_liked("u3", post)
        assert (liked.liked, not_liked.liked) == (True, False)
        summary = await likes.summary(post, "u1")
        assert summary.viewer_has_liked
        assert summary.like_count.exactness == summary.viewer_exactness == api.EXACTNESS_STALE
        assert before <= summary.viewer_as_of_time.ToMicroseconds() <= killed
        filtered = await likes.filtered(post, ["u3", "u2", "u1"])
        assert list(filtered.liked_user_ids) == ["u2", "u1"]
        for answer in (liked, not_liked, filtered):
            assert answer.exactness == api.EXACTNESS_STALE
            assert before <= micros(answer) <= killed
        assert (await likes.count(await replicated.post(19))).count == 0
    finally:
        await replicated.start_again()
    assert await likes.like("u3", post) == version + 1
    assert (await likes.count(post)).exactness != api.EXACTNESS_STALE
    assert (await likes.has_liked("u3", post)).exactness == api.EXACTNESS_EXACT


async def test_nothing_else_comes_from_a_replica(replicated: Replicated, likes: Likes) -> None:
    """Neither counts nor likes, unless the caller takes stale ones; no list; and no write goes there."""
    post = await replicated.post(6)
    await replicated.replayed(post, await likes.like("u1", post))
    owners = (await replicated.topology()).owners
    user = next(user for n in range(99) if owners[slot_of(user := f"user-{n}", SLOTS)] == NODE)
    replicated.kill("node")
    try:
        assert (await likes.count(post)).count == 1  # the replica is there, and asked
        failing = [likes.likers(post, timeout=0.8), likes.liked_posts(user, timeout=0.8)]
        for consistency in (api.CONSISTENCY_UNSPECIFIED, api.CONSISTENCY_CACHED, api.CONSISTENCY_STRONG):
            failing += [
                likes.count(post, consistency, timeout=0.8),
                likes.has_liked("u1", post, consistency, timeout=0.8),
                likes.summary(post, "u1", consistency, timeout=0.8),
                likes.filtered(post, ["u1"], consistency, timeout=0.8),
            ]
        for failure in await asyncio.gather(*failing, return_exceptions=True):
            assert isinstance(failure, grpc.aio.AioRpcError), failure
            assert failure.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError):
            await likes.like("u3", post, timeout=0.8)
    finally:
        await replicated.start_again()


async def test_an_owner_without_its_database_has_its_cache_and_the_replica_the_likes(
    replicated: Replicated, likes: Likes
) -> None:
    """Each part of a summary says so, as of when that was known: the owner has no word on what came later."""
    post = await replicated.post(7)
    before = now()
    version = await likes.like("u1", post)
    await likes.count(post)  # cached from now on
    await replicated.replayed(post, version)
    replicated.kill("postgres")
    killed = now()
    try:
        async with asyncio.timeout(20):
            while (summary := await likes.summary(post, "u1")).like_count.exactness != api.EXACTNESS_STALE:
                assert summary.viewer_has_liked  # the owner's lease is not over yet
    finally:
        await replicated.start_again()
    assert (summary.like_count.count, summary.viewer_has_liked) == (1, True)
    assert summary.viewer_exactness == api.EXACTNESS_STALE
    assert before <= micros(summary.like_count) <= killed
    assert before <= summary.viewer_as_of_time.ToMicroseconds() <= killed


async def test_an_owner_that_stands_still_costs_a_moment(replicated: Replicated, likes: Likes) -> None:
    post = await replicated.post(2)
    await replicated.replayed(post, await likes.like("u1", post))
    replicated.kill("node", signal.SIGSTOP)
    try:
        began = time.monotonic()
        counts = await asyncio.gather(*(likes.count(post) for _ in range(20)))
        assert time.monotonic() - began < 1
        assert {(count.count, count.exactness) for count in counts} == {(1, api.EXACTNESS_STALE)}
    finally:
        replicated.kill("node", signal.SIGCONT)
    await likes.like("u2", post)


async def test_a_replica_that_is_behind_says_so(replicated: Replicated, likes: Likes) -> None:
    """By its time: what was liked after it may be missing, and is."""
    post = await replicated.post(5)
    version = await likes.like("u1", post)
    await replicated.replayed(post, version)
    with psycopg.connect(replicated.standby.dsn, autocommit=True) as standby:
        standby.execute("SELECT pg_wal_replay_pause()")
        try:
            query = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            await until(lambda: standby.execute(query).fetchone() == (True,))
            missing = now()
            assert await likes.like("u2", post) == version + 1
            replicated.kill("node", signal.SIGSTOP)
            count = await likes.count(post)
        finally:
            replicated.kill("node", signal.SIGCONT)
            standby.execute("SELECT pg_wal_replay_resume()")
    assert (count.count, count.version, count.exactness) == (1, version, api.EXACTNESS_STALE)
    assert micros(count) < missing
    await replicated.replayed(post, version + 1)


def batch(
    replicated: Replicated, cluster_id: str, post: str, epoch: int, **other: object
) -> shard.ExecuteResponse:
    """What the replica answers to a batch of one operation."""
    request = shard.ExecuteRequest(
        cluster_id=cluster_id,
        read_mode=shard.READ_MODE_STALE_OK,
        kinds=[shard.OP_KIND_COUNT],
        post_ids=[post],
        user_ids=["u"],
        epochs=[epoch],
    )
    for name, value in other.items():
        request.ClearField(name)  # type: ignore[arg-type]
        request.MergeFrom(shard.ExecuteRequest(**{name: value}))  # type: ignore[arg-type]
    with grpc.insecure_channel(replicated.replica.address) as channel:
        return ShardServiceStub(channel).Execute(request, timeout=5)


@pytest.mark.parametrize(
    "other",
    [
        {"kinds": [shard.OP_KIND_LIKE]},
        {"kinds": [shard.OP_KIND_UNLIKE], "read_mode": shard.READ_MODE_UNSPECIFIED},
        {"read_mode": shard.READ_MODE_CACHED},
        {"read_mode": shard.READ_MODE_STRONG},
    ],
)
async def test_a_replica_does_nothing_but_stale_reads(
    replicated: Replicated, other: dict[str, object]
) -> None:
    topology, post = await replicated.topology(), await replicated.post(3)
    epoch = topology.epochs[slot_of(post, SLOTS)]
    assert not batch(replicated, topology.cluster_id, post, epoch).codes
    response = batch(replicated, topology.cluster_id, post, epoch, **other)
    assert response.codes == [shard.OP_CODE_UNAVAILABLE]
    assert [*response.counts, *response.versions] == [0, 0]


async def test_other_calls_are_not_there(replicated: Replicated) -> None:
    with grpc.insecure_channel(replicated.replica.address) as channel, pytest.raises(grpc.RpcError) as caught:
        ShardServiceStub(channel).FreezeSlot(shard.FreezeSlotRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_version_that_was_not_replayed_yet_is_not_ahead(replicated: Replicated) -> None:
    topology, post = await replicated.topology(), await replicated.post(3)
    epoch = topology.epochs[slot_of(post, SLOTS)]
    response = batch(replicated, topology.cluster_id, post, epoch, min_versions=[1_000])
    assert response.codes == [shard.OP_CODE_UNAVAILABLE]


async def test_of_a_slot_that_has_moved_away_a_replica_knows_nothing(
    replicated: Replicated, likes: Likes
) -> None:
    post = await replicated.post(4)
    await replicated.replayed(post, await likes.like("u1", post))
    slot, before = slot_of(post, SLOTS), await replicated.topology()
    moves = PostgresMoveStore(replicated.cluster.topology_dsn)
    try:
        await moves.set_limits(pause_budget_ms=4000)
        number = await apply(replicated.cluster.topology_dsn, slot, OTHER)
        async with asyncio.timeout(60), aclosing(moves.changes()) as changes:
            async for _ in changes:
                if (await moves.move(number)).state in (MoveState.MOVED, MoveState.VERIFIED):
                    break
    finally:
        await moves.close()
    after = await replicated.topology()
    assert after.owners[slot] == OTHER
    cluster_id, codes = after.cluster_id, [shard.OP_CODE_NOT_OWNER]
    await until(lambda: batch(replicated, cluster_id, post, before.epochs[slot]).codes == codes)
    assert batch(replicated, cluster_id, post, after.epochs[slot]).codes == codes
    version = await likes.like("u2", post)
    replicated.kill("node")
    try:
        count = await likes.count(post)
        assert (count.version, count.count) == (version, 2)
        assert count.exactness != api.EXACTNESS_STALE
    finally:
        await replicated.start_again()


async def test_a_replica_that_was_forgotten_registers_again(replicated: Replicated) -> None:
    before = (await replicated.topology()).version
    store = PostgresTopologyStore(replicated.cluster.topology_dsn)
    try:
        await store.remove_replica(replicated.replica.address)
    finally:
        await store.close()
    await replicated.registered()
    # Two changes: it may have registered again before anybody could look.
    assert (await replicated.topology()).version >= before + 2


async def test_a_replica_that_is_stopped_takes_itself_out(replicated: Replicated) -> None:
    await asyncio.to_thread(replicated.replica.stop)
    assert not (await replicated.topology()).replicas
    await asyncio.to_thread(replicated.replica.start)


async def test_a_replica_ends_when_its_database_is_promoted(replicated: Replicated, tmp_path: Path) -> None:
    """Last: nothing streams from the primary any more."""
    await replicated.registered()
    await asyncio.to_thread(replicated.standby.promote)
    await until(lambda: replicated.replica.pid is None)
    assert not (await replicated.topology()).replicas
    assert "a primary belongs to a node" in replicated.replica.log.read_text()
    again = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "-m", "shard_node.replica", "--listen", "127.0.0.1:0"),
        ],
        env={
            **os.environ,
            "LIKERING_REPLICA_POSTGRES": replicated.standby.dsn,
            "LIKERING_REPLICA_TOPOLOGY": replicated.cluster.topology_dsn,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 2
    assert "this Postgres is no streaming replica" in again.stderr
