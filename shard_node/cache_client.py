"""Valkey or Redis as the count cache uses it: three commands, short timeouts, no retries.

A new connection asks for the server's run id: after a restart the server may be empty, or hold an old snapshot of
itself, so whoever uses the cache must be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from time import monotonic
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

READ_TIMEOUT = 0.04
"""Seconds for a read, connecting included. A frozen server costs a read this long, once."""
WRITE_TIMEOUT = 0.25
"""Seconds for a write. Longer, because after a write that timed out the cache must begin anew."""
LATE = 0.005
"""Seconds after its time at which a timer of an idle event loop has fired for certain."""
MAX_CONNECTIONS = 64
"""More commands at once than this are refused as if the server did not answer: it is drowning."""


class LoopWasBusy(Exception):
    """The time was up, but only because this process was busy: it says nothing about the server."""


class CacheClient:
    """Connections to one cache server. Every call may raise redis.exceptions.RedisError."""

    def __init__(
        self,
        url: str,
        on_restart: Callable[[], None],
        *,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        """``on_restart`` is called when a connection finds another run id than the one before it."""
        self._on_restart = on_restart
        self._run_id: str | None = None
        self._read_timeout = read_timeout
        self._reads = self._connections(url, read_timeout)
        self._writes = self._connections(url, write_timeout)
        self._script = files("shard_node").joinpath("store_counts.lua").read_text("utf-8")
        self._script_sha: str | None = None

    def _connections(self, url: str, timeout: float) -> Redis:
        pool = ConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._connected,
            protocol=2,
        )
        return Redis.from_pool(pool)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of the keys, None for those that are not there. May raise LoopWasBusy."""
        started = monotonic()
        try:
            values: list[Any] = await self._reads.mget(keys)
        except RedisTimeoutError as error:
            if monotonic() - started > self._read_timeout + LATE:
                raise LoopWasBusy from error
            raise
        return values

    async def set_if_newer(self, keys: Sequence[str], values: Sequence[str], ttl: int, *, make: bool) -> None:
        """Sets each key whose value is of a lower version and, with ``make``, each one that is absent.

        A value is "version count"; ttl in seconds.
        """
        arguments: tuple[Any, ...] = (len(keys), *keys, ttl, int(make), *values)
        if self._script_sha is None:
            self._script_sha = await self._writes.script_load(self._script)
        try:
            await self._writes.evalsha(self._script_sha, *arguments)
        except NoScriptError:
            self._script_sha = await self._writes.script_load(self._script)
            await self._writes.evalsha(self._script_sha, *arguments)

    async def ping(self) -> None:
        """Raises when the server does not answer."""
        await self._reads.ping()

    async def close(self) -> None:
        """Closes all connections."""
        await self._reads.aclose()
        await self._writes.aclose()

    async def _connected(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server", check_health=False)
        info: bytes = await connection.read_response()
        run_id = next(
            (line[7:].decode().strip() for line in info.splitlines() if line.startswith(b"run_id:")), ""
        )
        if not run_id:
            raise RedisConnectionError("the server does not tell its run id")
        if self._run_id is not None and run_id != self._run_id:
            self._on_restart()
        self._run_id = run_id
