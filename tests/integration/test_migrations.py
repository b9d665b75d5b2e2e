"""Migrations: each file once, in order, all or nothing, whoever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from likering.postgres.migrations import MigrationError, migrate

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


def write(directory: Path, **statements: str) -> Path:
    """Writes ``_0001_name="SQL"`` as ``0001_name.sql``."""
    directory.mkdir(exist_ok=True)
    for name, text in statements.items():
        (directory / f"{name.removeprefix('_')}.sql").write_text(text)
    return directory


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write(
        tmp_path / "schema",
        _0001_first="CREATE TABLE one (id int); INSERT INTO one VALUES (1);",
        _0002_second="ALTER TABLE one ADD name text DEFAULT '100%'; CREATE TABLE two (id int);",
    )


async def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode())).fetchall()


async def applied(connection: Connection) -> list[tuple[Any, ...]]:
    return await rows(connection, "SELECT version, name FROM likering.schema_migrations ORDER BY version")


async def test_files_are_applied_once_and_in_order(connection: Connection, files: Path) -> None:
    for _ in range(2):
        await migrate(connection, files, schema="likering")
        assert await applied(connection) == [(1, "first"), (2, "second")]
        assert await rows(connection, "SELECT * FROM likering.one") == [(1, "100%")]

    write(files, _0003_third="INSERT INTO one VALUES (3)")
    await migrate(connection, files, schema="likering")
    assert await applied(connection) == [(1, "first"), (2, "second"), (3, "third")]
    assert len(await rows(connection, "SELECT * FROM likering.one")) == 2


async def test_the_search_path_is_the_schema(connection: Connection, files: Path) -> None:
    await migrate(connection, files, schema='odd "name"')
    assert await rows(connection, "SELECT current_schema(), id FROM one") == [('odd "name"', 1)]


async def test_two_schemas_of_one_database_are_apart(
    connection: Connection, files: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", _0001_other="CREATE TABLE other (id int)")
    await migrate(connection, files, schema="likering")
    await migrate(connection, other, schema="elsewhere")
    await migrate(connection, files, schema="likering")
    assert await rows(connection, "SELECT version, name FROM elsewhere.schema_migrations") == [(1, "other")]


async def test_a_file_that_fails_leaves_nothing_of_itself(connection: Connection, files: Path) -> None:
    write(files, _0003_broken="CREATE TABLE three (id int); SELECT 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(connection, files, schema="likering")
    assert await applied(connection) == [(1, "first"), (2, "second")]
    assert await rows(connection, "SELECT to_regclass('likering.three')") == [(None,)]

    write(files, _0003_broken="CREATE TABLE three (id int)")
    await migrate(connection, files, schema="likering")
    assert await applied(connection) == [(1, "first"), (2, "second"), (3, "broken")]


async def test_many_may_migrate_at_once(database: str, connection: Connection, files: Path) -> None:
    async def one() -> None:
        async with await psycopg.AsyncConnection.connect(database) as mine:
            await migrate(mine, files, schema="likering")

    await asyncio.gather(*(one() for _ in range(8)))
    assert await applied(connection) == [(1, "first"), (2, "second")]
    assert await rows(connection, "SELECT id FROM likering.one") == [(1,)]


async def test_a_file_changed_after_it_was_applied_is_refused(connection: Connection, files: Path) -> None:
    await migrate(connection, files, schema="likering")
    write(files, _0001_first="CREATE TABLE one (id bigint)", _0003_third="CREATE TABLE three (id int)")
    with pytest.raises(MigrationError, match="0001_first was changed after it was applied"):
        await migrate(connection, files, schema="likering")
    assert await applied(connection) == [(1, "first"), (2, "second")]


async def test_a_database_of_a_newer_version_is_refused(connection: Connection, files: Path) -> None:
    await migrate(connection, files, schema="likering")
    (files / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match="has migration 0002_second, this version knows only 1"):
        await migrate(connection, files, schema="likering")


async def test_another_history_is_refused(connection: Connection, files: Path) -> None:
    await migrate(connection, files, schema="likering")
    (files / "0002_second.sql").rename(files / "0002_other.sql")
    with pytest.raises(MigrationError, match="has migration 0002_second where this version has 0002_other"):
        await migrate(connection, files, schema="likering")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0004_gap.sql", "without gaps or doubles, not: 0001, 0002, 0004"),
        ("0002_double.sql", "without gaps or doubles, not: 0001, 0002, 0002"),
        ("third.sql", "third.sql is not named like"),
        ("0003-third.sql", "0003-third.sql is not named like"),
    ],
)
async def test_files_must_count(connection: Connection, files: Path, name: str, message: str) -> None:
    (files / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=message):
        await migrate(connection, files, schema="likering")
    assert await rows(connection, "SELECT to_regnamespace('likering')") == [(None,)]


async def test_other_files_are_left_alone(connection: Connection, files: Path) -> None:
    (files / "__init__.py").write_text("")
    await migrate(connection, files, schema="likering")


async def test_an_open_transaction_is_refused(database: str, files: Path) -> None:
    """Its commit would be the caller's, long after the lock was thought to be free."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("SELECT 1")
        with pytest.raises(MigrationError, match="outside a transaction"):
            await migrate(connection, files, schema="likering")


async def test_a_schema_made_by_an_administrator_needs_no_right_to_make_one(
    database: str, connection: Connection, files: Path
) -> None:
    role = sql.Identifier(f"user_of_{connection.info.dbname}")
    await connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        await connection.execute(sql.SQL("CREATE SCHEMA likering AUTHORIZATION {}").format(role))
        await connection.execute(sql.SQL("SET ROLE {}").format(role))
        await migrate(connection, files, schema="likering")
        await migrate(connection, files, schema="likering")
        assert await applied(connection) == [(1, "first"), (2, "second")]
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))
