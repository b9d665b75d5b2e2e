"""Connections that pulls use one after the other: to make one costs as much as moving a small slot.

They are apart from the pool that reads use, so that a move takes none of those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from shard_node.database import conninfo
from shard_node.store import Connection

_MOST = 16
_IDLE = 30.0
_REPLICATING_IDLE = 10.0
"""Seconds after which a connection that nobody uses is closed; sooner, where it takes one of few WAL senders."""
_WAIT = 5.0
"""Seconds to wait for a connection."""


class Links:
    """Pools of connections, made when they are first asked for. Everything is in autocommit."""

    def __init__(self, application_name: str) -> None:
        self._application_name = application_name
        self._pools: dict[str, AsyncConnectionPool[Connection]] = {}

    def __repr__(self) -> str:
        return f"<Links {len(self._pools)} pools>"

    def to(self, dsn: str) -> AbstractAsyncContextManager[Connection]:
        """A connection to lend. Raises psycopg.Error or PoolTimeout."""
        return self._lend(conninfo(dsn, self._application_name), _IDLE)

    @asynccontextmanager
    async def replicating(self, dsn: str) -> AsyncIterator[Connection]:
        """A replication connection to lend. A snapshot that was exported on it ends with that."""
        # Without the time limits of ``conninfo``: one that exports a snapshot is idle in a transaction.
        connection_string = make_conninfo(
            dsn,
            application_name=self._application_name,
            replication="database",
            target_session_attrs="read-write",
            connect_timeout=3,
        )
        # Such a connection cannot prepare.
        async with self._lend(connection_string, _REPLICATING_IDLE, prepare_threshold=None) as connection:
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            await connection.execute("IDENTIFY_SYSTEM")  # the next command ends the snapshot

    async def close(self) -> None:
        """Closes all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close(timeout=2.0)

    @asynccontextmanager
    async def _lend(self, connection_string: str, idle: float, **options: Any) -> AsyncIterator[Connection]:
        pool = self._pools.get(connection_string)
        if pool is None:
            pool = self._pools[connection_string] = AsyncConnectionPool(
                connection_string,
                min_size=0,
                max_size=_MOST,
                max_idle=idle,
                timeout=_WAIT,
                reconnect_timeout=_WAIT,
                check=AsyncConnectionPool.check_connection,
                kwargs={"autocommit": True, **options},
                open=False,
            )
            await pool.open()
        try:
            connection = await pool.getconn()
        except PoolTimeout:
            # The pool does not say why it has none; a connection of one's own does.
            await (await AsyncConnection.connect(connection_string, autocommit=True)).close()
            raise
        try:
            async with connection:
                yield connection
        finally:
            await pool.putconn(connection)
