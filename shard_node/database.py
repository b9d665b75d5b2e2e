"""How a node connects to its Postgres, and how long it waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from shard_node.store import Connection

SCHEMA = "likering"

T = TypeVar("T")

_abandoned: set[asyncio.Task[Any]] = set()


def conninfo(dsn: str, application_name: str, *, of_replica: bool = False) -> str:
    """The connection string of a node's own connection: the primary among the hosts, and no endless waits.

    ``of_replica``: the DSN is a standby's, and is taken as it is.

    jit costs milliseconds on statements that take one; a generic plan is right for all of ours, whose parameters are
    arrays. A transaction that stays open because its process is stopped is ended by the server.
    """
    settings = {
        "search_path": SCHEMA,
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        "synchronous_commit": "on",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "3s",
    }
    return make_conninfo(
        dsn,
        application_name=application_name,
        target_session_attrs="any" if of_replica else "read-write",
        connect_timeout=3,
        keepalives_idle=1,
        keepalives_interval=1,
        keepalives_count=3,
        tcp_user_timeout=3000,
        options=" ".join(f"-c{name}={value}" for name, value in settings.items()),
    )


def read_pool(dsn: str, size: int, *, of_replica: bool = False) -> AsyncConnectionPool[Connection]:
    """A pool, not yet open, of autocommit connections for reads. ``of_replica``: see ``conninfo``."""
    return AsyncConnectionPool(
        conninfo(dsn, "likering-reads", of_replica=of_replica),
        min_size=min(2, size),
        max_size=size,
        timeout=1.0,
        max_waiting=200,
        reconnect_timeout=5.0,
        kwargs={"autocommit": True},
        open=False,
    )


async def within(seconds: float, work: Coroutine[Any, Any, T], connection: Connection | None = None) -> T:
    """Awaits database work for so long, then raises TimeoutError and leaves it to end by itself.

    psycopg answers a cancellation only after it has tried to cancel the statement on the server: with a frozen
    server a timeout of 1 s came back after 11 s. So the work goes on in a task of its own, and the ``connection``
    that it alone uses is closed when it ends.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task, connection)
        raise
    if task.done():
        return task.result()
    _abandon(task, connection)
    raise TimeoutError("the database does not answer")


def _abandon(task: asyncio.Task[Any], connection: Connection | None) -> None:
    def ended(task: asyncio.Task[Any]) -> None:
        _abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # it was answered for long ago; looking at it keeps asyncio from complaining
        if connection is not None:
            connection.pgconn.finish()

    _abandoned.add(task)
    task.add_done_callback(ended)
