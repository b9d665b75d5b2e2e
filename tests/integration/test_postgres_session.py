"""Sessions: a call ends at its deadline and a cancelled one at once, whatever the server does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from likering.dev.postgres import PostgresServer
from likering.postgres.session import Connection, Session, conninfo
from tests.parts.frozen import frozen
from tests.parts.until import until

AT_ONCE = 0.5
"""Seconds: what 'at once' may take on a busy machine; psycopg's own cancellation takes 5 and more."""


def session_of(dsn: str, timeout: float) -> Session:
    return Session(conninfo(dsn, timeout=60, schema="public", application_name="test"), timeout=timeout)


@pytest.fixture
async def session(database: str) -> AsyncIterator[Session]:
    session = session_of(database, timeout=20)
    yield session
    await session.close()


@pytest.fixture
async def hasty(database: str) -> AsyncIterator[Session]:
    session = session_of(database, timeout=1)
    yield session
    await session.close()


async def backend(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


def connections_to(server: PostgresServer) -> int:
    """How many this process has open."""
    peers = (connection.raddr for connection in psutil.Process().net_connections("tcp"))
    return sum(bool(peer) and peer.port == server.port for peer in peers)


async def sleep(connection: Connection) -> None:
    await connection.execute("SELECT pg_sleep(60)")


async def test_one_connection_serves_all_calls(session: Session) -> None:
    assert len(set(await asyncio.gather(*(session.run(backend) for _ in range(5))))) == 1


async def test_errors_of_the_work_are_the_callers(session: Session) -> None:
    async def fail(connection: Connection) -> None:
        await connection.execute("SELECT 1/0")

    before = await session.run(backend)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await session.run(fail)
    assert await session.run(backend) == before


async def test_a_connection_that_broke_is_replaced(session: Session) -> None:
    async def end_itself(connection: Connection) -> None:
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    before = await session.run(backend)
    with pytest.raises(psycopg.OperationalError):
        await session.run(end_itself)
    assert await session.run(backend) != before


async def test_nobody_notices_a_connection_that_ended_unused(session: Session, database: str) -> None:
    """Nothing was under way on it: the first call after a restart of the server is as good as any other."""
    before = await session.run(backend)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", [before])
    assert await session.run(backend) != before


async def test_slow_work_ends_at_the_deadline(hasty: Session) -> None:
    before = await hasty.run(backend)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await hasty.run(sleep)
    assert 1 <= time.monotonic() - started < 1 + AT_ONCE
    assert await hasty.run(backend) != before


async def test_waiting_for_a_turn_counts(hasty: Session) -> None:
    started = time.monotonic()
    results = await asyncio.gather(*(hasty.run(sleep) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 3
    assert time.monotonic() - started < 1 + AT_ONCE


@pytest.mark.parametrize("connected", [True, False])
async def test_a_frozen_server_is_given_up_at_the_deadline(
    hasty: Session, postgres_server: PostgresServer, connected: bool
) -> None:
    if connected:
        await hasty.run(backend)
    with frozen(postgres_server):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="does not answer"):
            await hasty.run(backend)
        assert time.monotonic() - started < 1 + AT_ONCE
    assert await hasty.run(backend)


@pytest.mark.parametrize("connected", [True, False])
async def test_cancelling_does_not_wait_for_a_frozen_server(
    session: Session, postgres_server: PostgresServer, connected: bool
) -> None:
    if connected:
        await session.run(backend)
    with frozen(postgres_server):
        call = asyncio.create_task(session.run(backend))
        await asyncio.wait((call,), timeout=0.2)  # it is underway, and gets no answer
        assert not call.done()
        started = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - started < AT_ONCE
    assert await session.run(backend)


@pytest.mark.parametrize("connected", [True, False])
async def test_closing_does_not_wait_for_a_frozen_server(
    session: Session, postgres_server: PostgresServer, connected: bool
) -> None:
    if connected:
        await session.run(backend)
    with frozen(postgres_server):
        call = asyncio.create_task(session.run(backend))
        await asyncio.wait((call,), timeout=0.2)
        started = time.monotonic()
        await session.close()
        with pytest.raises(psycopg.Error):
            await call
        assert time.monotonic() - started < AT_ONCE
        assert connections_to(postgres_server) == 0
    with pytest.raises(psycopg.InterfaceError, match="closed"):
        await session.run(backend)


async def listen(connection: Connection) -> None:
    await connection.execute("LISTEN news")


async def test_notifications_arrive_until_the_session_is_closed(session: Session, database: str) -> None:
    await session.run(listen)
    heard: list[str] = []

    async def hear() -> None:
        async with aclosing(session.notifications()) as payloads:
            while True:
                heard.append(await anext(payloads))

    hearing = asyncio.create_task(hear())
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        await other.execute("SELECT pg_notify('news', 'one'), pg_notify('news', 'two')")
    await until(lambda: heard == ["one", "two"])
    await session.close()
    with pytest.raises(psycopg.OperationalError):
        await hearing


async def test_while_it_listens_other_work_gets_no_turn_but_an_answer(hasty: Session) -> None:
    await hasty.run(listen)
    hearing = asyncio.ensure_future(anext(hasty.notifications()))
    await until(hasty._turn.locked)
    with pytest.raises(TimeoutError):
        await hasty.run(backend)
    await hasty.close()
    with pytest.raises(psycopg.OperationalError):
        await hearing


async def test_notifications_of_a_broken_connection_end(session: Session, database: str) -> None:
    await session.run(listen)
    pid = await session.run(backend)
    hearing = asyncio.ensure_future(anext(session.notifications()))
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with pytest.raises(psycopg.OperationalError):
        await hearing


async def test_the_server_ends_what_the_client_gave_up(database: str) -> None:
    """Statements, lock waits and the transaction of a process that was stopped, all at the timeout."""
    settings = conninfo(database + "&options=-cwork_mem%3D5MB", timeout=0.5, schema="s", application_name="n")
    async with await psycopg.AsyncConnection.connect(settings) as connection:
        row = await (
            await connection.execute(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
                " current_setting('idle_in_transaction_session_timeout'), current_setting('search_path'),"
                " current_setting('work_mem'), current_setting('application_name')"
            )
        ).fetchone()
        assert row == ("500ms", "500ms", "500ms", "s", "5MB", "n")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.execute("SELECT pg_sleep(60)")


def test_what_the_connection_string_says_stands() -> None:
    given = conninfo_to_dict(
        conninfo(
            "postgresql://h/d?application_name=mine&connect_timeout=7",
            timeout=3,
            schema="s",
            application_name="n",
        )
    )
    assert (given["application_name"], given["connect_timeout"], given["host"]) == ("mine", "7", "h")


def test_another_string_is_no_connection_string() -> None:
    with pytest.raises(ValueError, match="not a Postgres connection string"):
        conninfo("nonsense", timeout=3, schema="s", application_name="n")
