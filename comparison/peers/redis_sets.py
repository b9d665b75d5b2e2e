"""Peer: the same gRPC over Redis sets, SADD to like and SCARD to count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis

from comparison.peers.service import serving
from comparison.serving import Register, main

CONNECTIONS = 16


class RedisLikes:
    """A set of users per post."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def like(self, user_id: str, post_id: str) -> tuple[bool, int]:
        """Stores a like: whether that changed anything, and the post's count then."""
        key = f"likes:{post_id}"
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.sadd(key, user_id)
            pipeline.scard(key)
            added, count = await pipeline.execute()
        return bool(added), int(count)

    async def count(self, post_id: str) -> int:
        """The post's count."""
        count: int = await self._client.scard(f"likes:{post_id}")
        return count

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.aclose()


@asynccontextmanager
async def _open(url: str) -> AsyncIterator[Register]:
    pool = BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=60)
    async with serving(RedisLikes(Redis.from_pool(pool))) as register:
        yield register


if __name__ == "__main__":
    main(_open)
