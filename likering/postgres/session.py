"""One connection that opens when needed and again after it broke, and whose calls end at their deadline.

psycopg answers a cancellation only after it has tried to cancel the statement on the server: with a frozen server a
timeout of 1 s came back after 11 s. So the work runs in a task of its own; when its time is up, or its caller is
cancelled, the socket is shut down under it, which ends it at once whatever the server does.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from likering.postgres.dsn import check_dsn

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]

T = TypeVar("T")


def conninfo(dsn: str, *, timeout: float, schema: str, application_name: str) -> str:
    """The DSN with everything that keeps a call from waiting much longer than ``timeout`` (seconds).

    The server ends what the client gave up (statements, lock waits, transactions of a stopped process); TCP notices a
    silent network; a standby is no server to write to. Raises ValueError when the DSN is not a connection string.
    """
    given = conninfo_to_dict(check_dsn(dsn))
    milliseconds = max(1, round(timeout * 1000))
    settings = {
        "search_path": schema,
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }
    options = " ".join(f"-c{name}={value}" for name, value in settings.items())
    defaults: dict[str, str | int] = {
        "application_name": application_name,
        "connect_timeout": max(2, round(timeout)),  # libpq takes 1 as 2
        "target_session_attrs": "read-write",
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
    }
    options = f"{given.pop('options', None) or ''} {options}".strip()
    return make_conninfo("", **(defaults | given), options=options)


class Session:
    """A connection in autocommit, used by one caller at a time; the others wait their turn within their deadline."""

    def __init__(self, conninfo: str, *, timeout: float) -> None:
        """``timeout`` (seconds) is for a whole call: its turn, connecting and the work."""
        self._conninfo = conninfo
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._task: asyncio.Future[Any] | None = None
        self._connection: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._connection else "not connected"
        return f"Session({state})"

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work``, which waits for nothing but the connection.

        Raises TimeoutError at the deadline and psycopg.Error as the work does; after either, the outcome of a write is
        unknown. The next call replaces a connection that broke. One that ended while nobody used it is no error.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        async with asyncio.timeout_at(deadline):
            await self._turn.acquire()
        try:
            return await self._run_until(deadline, work)
        finally:
            self._turn.release()

    async def notifications(self) -> AsyncGenerator[str, None]:
        """The payloads of what ``run`` had the server LISTEN to, for as long as the connection lives.

        While it waits for the next one, the session has no turn for other work. Raises psycopg.Error when the
        connection breaks or is closed.
        """
        if self._connection is None:
            raise psycopg.InterfaceError("the session is not connected")
        async with aclosing(self._connection.notifies()) as notifies:
            while True:
                async with self._turn:
                    notify = await anext(notifies)
                yield notify.payload

    async def close(self) -> None:
        """Close the connection; work that is going on fails at once, and so does every later call."""
        self._closed = True
        self._interrupt()
        async with self._turn:
            await self._drop()

    async def _run_until(self, deadline: float, work: Callable[[Connection], Awaitable[T]]) -> T:
        self._task = task = asyncio.ensure_future(self._connect_and(work))
        try:
            await asyncio.wait((task,), timeout=deadline - asyncio.get_running_loop().time())
        finally:
            # Also when the caller was cancelled: whoever is next must not find the connection in use.
            in_time = task.done()
            if not in_time:
                self._interrupt()
                await asyncio.wait((task,))
                # Even if the answer came in that very moment: its socket is shut down.
                await self._drop()
            self._task = None
            if not task.cancelled():
                task.exception()  # seen, so asyncio does not complain when nobody asks for the result
        if not in_time:
            raise TimeoutError("Postgres does not answer")
        if task.cancelled():
            raise psycopg.InterfaceError("the session was closed")
        return task.result()

    async def _connect_and(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._closed:
            raise psycopg.InterfaceError("the session is closed")
        if self._connection is not None and not await _lives(self._connection):
            await self._drop()
        if self._connection is None:
            self._connection = await self._connect()
        try:
            return await work(self._connection)
        finally:
            if self._connection.closed:
                await self._drop()

    async def _connect(self) -> Connection:
        try:
            return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        except asyncio.CancelledError:
            pass
        # Not the same exception again: by its traceback it holds the half-open connection, which would stay open.
        raise asyncio.CancelledError

    def _interrupt(self) -> None:
        """End what is going on, without waiting for the server."""
        if self._connection is not None:
            # PQfinish would take the descriptor away from under the event loop; this only ends the conversation.
            with (
                suppress(psycopg.Error, OSError),
                socket.socket(fileno=os.dup(self._connection.fileno())) as same,
            ):
                same.shutdown(socket.SHUT_RDWR)
        elif self._task is not None:
            self._task.cancel()  # connecting: there is no statement yet that psycopg would try to cancel first

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _lives(connection: Connection) -> bool:
    """Whether a connection that nobody uses still leads to a server.

    Asked only where that has sent something unasked, as it does when it ends one: all others need no round trip.
    """
    unasked = select.poll()
    unasked.register(connection.fileno(), select.POLLIN)
    if not unasked.poll(0):
        return True
    try:
        await connection.execute("")
    except psycopg.OperationalError:
        return False
    return True
