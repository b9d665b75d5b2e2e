"""Connections that pulls use one after the other: to make one costs as much as moving a small slot.

They are apart from the pool that reads use, so that a move takes none of those.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from psycopg_pool import AsyncConnectionPool

from shard_node.database import conninfo
from shard_node.store import Connection

_MOST = 16
_IDLE = 30.0
"""Seconds after which a connection that nobody uses is closed."""
_WAIT = 5.0
"""Seconds to wait for a connection."""


class Links:
    """Pools of connections to databases, made when they are first asked for. Everything is in autocommit."""

    def __init__(self, application_name: str) -> None:
        self._application_name = application_name
        self._pools: dict[str, AsyncConnectionPool[Connection]] = {}

    def __repr__(self) -> str:
        return f"<Links {len(self._pools)} databases>"

    async def to(self, dsn: str) -> AbstractAsyncContextManager[Connection]:
        """A connection to lend: ``async with await links.to(dsn) as connection``. May raise PoolTimeout."""
        pool = self._pools.get(dsn)
        if pool is None:
            pool = self._pools[dsn] = AsyncConnectionPool(
                conninfo(dsn, self._application_name),
                min_size=0,
                max_size=_MOST,
                max_idle=_IDLE,
                timeout=_WAIT,
                reconnect_timeout=_WAIT,
                check=AsyncConnectionPool.check_connection,
                kwargs={"autocommit": True},
                open=False,
            )
            await pool.open()
        return pool.connection()

    async def close(self) -> None:
        """Closes all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close(timeout=2.0)
