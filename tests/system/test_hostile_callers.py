"""What hostile callers do to others: nothing. Resets, connections that hang, SQL in ids, rubbish in the caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import grpc
import psycopg
import pytest
from redis.asyncio import Redis

from likering import AsyncLikes, LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as admin_api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.admin.v1.ring_service_pb2 import DrainNodeRequest
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.client.credentials import credentials_from_files
from likering.client.retry import RetryPolicy
from likering.dev.cluster import EmbeddedCluster
from likering.dev.securing import Secured
from likering.v1 import like_service_pb2 as api
from tests.parts.barrage import pids
from tests.parts.raw_http2 import DATA, RawConnection, frame, raw_connection, tls_context
from tests.parts.until import until

pytestmark = pytest.mark.timeout(180)

RESETS: Final = 10_000
CONNECTIONS: Final = 4
HALF_OPEN: Final = 200
LIKE: Final = "/likering.v1.LikeService/Like"
SQL: Final = (
    "'; DROP TABLE likering.edges; --",
    "' OR '1'='1",
    "x'); DELETE FROM likering.posts; --",
    '"; DROP SCHEMA likering CASCADE; --',
    "$$; DROP TABLE likering.slots; $$",
    "%s%(post_id)s{}{0}",
    "\\'; TRUNCATE likering.writer; --",
    "' UNION SELECT rolpassword FROM pg_authid --",
    "E'\\x00'::bytea",
    "*", "_", "%", "\r\nFLUSHALL\r\n", "{hash}tag", "$5\r\nhello",
)  # fmt: skip


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A secured cluster of two nodes."""
    with EmbeddedCluster(tmp_path_factory.mktemp("besieged"), nodes=2, slots=8, secure=True) as cluster:
        yield cluster


def certificates(cluster: EmbeddedCluster) -> Secured:
    assert cluster.secured is not None
    return cluster.secured


@asynccontextmanager
async def others(cluster: EmbeddedCluster) -> AsyncIterator[None]:
    """Callers who like meanwhile, and never try again: each of their calls comes through, on the same processes."""
    before, made, done = pids(cluster), [0] * 4, asyncio.Event()
    credentials = certificates(cluster).app.credentials()
    post = f"post-{id(done)}"

    async with AsyncLikes(
        cluster.address, credentials=credentials, timeout=20, retry=RetryPolicy(tokens=0)
    ) as likes:

        async def like(caller: int) -> None:
            while not done.is_set():
                assert await likes.like(f"user-{caller}-{made[caller]}", post)
                made[caller] += 1

        async with asyncio.TaskGroup() as group:
            for caller in range(len(made)):
                group.create_task(like(caller))
            try:
                await until(lambda: min(made) > 0)
                before_attack = list(made)
                yield
                # Whatever the attack has left behind: each of them is served again.
                await until(lambda: all(now > then for now, then in zip(made, before_attack, strict=True)))
            finally:
                done.set()
        assert await likes.like_count(post) == sum(made)
    assert pids(cluster) == before


@pytest.mark.parametrize("shows", ["a certificate", "nothing"])
async def test_ten_thousand_rapid_resets_fail_nobodys_calls(besieged: EmbeddedCluster, shows: str) -> None:
    """By somebody who may call, and on the port where nobody has to show a certificate."""
    own = certificates(besieged)
    address = besieged.address if shows == "a certificate" else besieged.token_address
    tls = tls_context(own.app, show=shows == "a certificate")
    message = api.LikeRequest(user_id="mallory", post_id="resets").SerializeToString()

    async def attack(calls: int) -> int:
        made = 0
        while made < calls:  # again, should the server hang up
            async with raw_connection(address, tls) as connection:
                await connection.begin()
                made += await connection.reset_calls(LIKE, message, calls - made)
        return made

    async with others(besieged):
        attacks = await asyncio.gather(*(attack(RESETS // CONNECTIONS) for _ in range(CONNECTIONS)))
    assert sum(attacks) >= RESETS


async def _silent(connection: RawConnection) -> None:
    """Says nothing."""


async def _no_settings(connection: RawConnection) -> None:
    await connection.send(b"PRI * HTTP/2.0\r\n")


async def _half_a_frame(connection: RawConnection) -> None:
    await connection.begin()
    _, opening = connection.headers(LIKE)
    await connection.send(opening[:-5])


async def _half_a_message(connection: RawConnection) -> None:
    """Promises a message of 1,000 bytes, and sends three."""
    await connection.begin()
    stream, opening = connection.headers(LIKE)
    await connection.send(opening + frame(DATA, 0, stream, b"\0" + (1000).to_bytes(4) + b"abc"))


async def _rubbish(connection: RawConnection) -> None:
    await connection.begin()
    await connection.send(frame(DATA, 0, 1, b"\xff" * 1000) + b"\xff" * 1000)


@pytest.mark.parametrize("words", [_silent, _no_settings, _half_a_frame, _half_a_message, _rubbish])
async def test_connections_that_hang_hold_up_nobody(besieged: EmbeddedCluster, words: object) -> None:
    """Some hundred of them, after the handshake, before it and in its middle."""
    own = certificates(besieged)
    tls = tls_context(own.app, show=False)
    assert callable(words)
    async with AsyncExitStack() as open_ones, others(besieged):
        for number in range(HALF_OPEN):
            if number % 2:
                connection = await open_ones.enter_async_context(raw_connection(besieged.token_address, tls))
                await words(connection)
            else:
                # No TLS at all, or the first bytes of it.
                connection = await open_ones.enter_async_context(raw_connection(besieged.address))
                await connection.send(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        # New ones are taken meanwhile.
        with LikeTracker(besieged.address, credentials=own.app.credentials(), timeout=20) as likes:
            assert likes.like_count("nobody's") == 0
        async with AsyncLikes(
            besieged.token_address,
            credentials=credentials_from_files(ca=own.authority.ca),
            token=own.authority.token("u1"),
            timeout=20,
        ) as likes_by_token:
            assert await likes_by_token.like_count("nobody's") == 0


async def test_a_connection_without_a_handshake_is_ended(besieged: EmbeddedCluster) -> None:
    """Whoever does not even begin one is not kept for ever."""
    host, _, port = besieged.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(30):
            assert await reader.read() == b""
    finally:
        writer.close()


def test_sql_in_ids_is_text(besieged: EmbeddedCluster) -> None:
    """Of users and posts, in every call that takes them, operators' as well; and nothing else has changed."""
    own = certificates(besieged)
    with LikeTracker(besieged.address, credentials=own.app.credentials(), timeout=20) as likes:
        likes.mutate([Mutation.like(f"bystander-{number}", "bystanders") for number in range(10)])
        before = tables(besieged)
        for text in SQL:
            assert likes.like(text, text)
            assert likes.has_liked(text, text)
            assert likes.filter_likers(text, [*SQL]) == [text]
            assert [liker.user_id for liker in likes.list_likers(text).likes] == [text]
            assert likes.summaries([text, "bystanders"])
        likes.mutate([Mutation.unlike(text, text) for text in SQL])
        likes.mutate([Mutation.like(text, other) for text in SQL for other in SQL])
        assert [likes.like_count(text) for text in SQL] == [len(SQL)] * len(SQL)
        with grpc.secure_channel(besieged.admin_address, own.operator.credentials()) as channel:
            admin = LikeAdminServiceStub(channel)
            for text in SQL:
                list(admin.PurgePost(admin_api.PurgePostRequest(post_id=text), timeout=30))
                list(admin.PurgeUser(admin_api.PurgeUserRequest(user_id=text), timeout=30))
                with pytest.raises(grpc.RpcError) as caught:
                    RingServiceStub(channel).DrainNode(DrainNodeRequest(name=text), timeout=30)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert [likes.like_count(text) for text in SQL] == [0] * len(SQL)
        assert likes.like_count("bystanders") == 10
    assert tables(besieged) == before


def tables(cluster: EmbeddedCluster) -> list[list[str]]:
    """What each database has."""
    found = []
    for dsn in (cluster.topology_dsn, *(node.postgres_dsn for node in cluster.nodes.values())):
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT LIKE 'pg\\_%' ORDER BY 1"
            )
            found.append([name for (name,) in rows])
    return found


async def test_rubbish_in_the_caches_changes_no_answer(besieged: EmbeddedCluster) -> None:
    """Whatever stands there under whatever type: reads are right, and so are those after the next like."""
    own = certificates(besieged)
    posts = [f"rubbish-{number}" for number in range(24)]
    async with AsyncLikes(besieged.address, credentials=own.app.credentials(), timeout=20) as likes:
        for round_ in range(3):
            await likes.mutate([Mutation.like(f"u{round_}", post) for post in posts])
            assert [await likes.like_count(post) for post in posts] == [round_ + 1] * len(posts)
            for node in besieged.nodes.values():
                async with Redis.from_url(node.cache_url) as redis:
                    await spoil(redis)
            assert [await likes.like_count(post) for post in posts] == [round_ + 1] * len(posts)


async def spoil(redis: Redis) -> None:
    """Puts something else in place of every key."""
    keys = sorted(await redis.keys("*"))
    assert keys
    rubbish = (
        b"",
        b"\xff\x00\xfe",
        b"-1 -1",
        b"9" * 400,
        b"1",
        b"a b",
        b"1 2 3",
        b"1e9 7",
        b"\x00" * 100_000,
    )
    for number, key in enumerate(keys):
        await redis.delete(key)
        match number % 12:
            case 9:
                await redis.rpush(key, b"a", b"b")
            case 10:
                await redis.hset(key, "a", "b")
            case 11:
                await redis.sadd(key, b"a")
            case kind:
                await redis.set(key, rubbish[kind])
