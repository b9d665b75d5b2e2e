"""Numbered SQL files applied once each, in order, whoever starts first; a changed or unknown one is refused."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from likering.errors import LikeringError

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(LikeringError):
    """The schema of the database does not fit this version of the code."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    statements: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.statements).hexdigest()


def migrations_in(files: Traversable) -> tuple[Migration, ...]:
    """The migrations of a directory, by number. Raises MigrationError unless they count 1, 2, 3, … ."""
    found = []
    for file in files.iterdir():
        if file.name.endswith(".sql"):
            match = _FILE_NAME.fullmatch(file.name)
            if match is None:
                raise MigrationError(f"{file.name} is not named like 0001_what_it_does.sql")
            found.append(Migration(int(match[1]), match[2], file.read_bytes()))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        numbers = ", ".join(f"{migration.version:04}" for migration in found)
        raise MigrationError(
            f"Migrations must be numbered 0001, 0002, … without gaps or doubles, not: {numbers}"
        )
    return tuple(found)


async def migrate(connection: psycopg.AsyncConnection[Any], files: Traversable, *, schema: str) -> None:
    """Bring ``schema`` up to the newest of ``files`` (a directory of ``NNNN_name.sql``) and set the search_path to it.

    Each file runs in one transaction, together with its row in ``schema_migrations``, under an advisory lock: many
    processes may start at once. The schema is made if there is none. The connection must be outside a transaction;
    how long a file may take is up to its ``statement_timeout``. Raises MigrationError when an applied file was changed
    since, or when the database was migrated by a newer version of the code.
    """
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        raise MigrationError("Migrations need a connection that is outside a transaction")
    known = migrations_in(files)
    lock = int.from_bytes(hashlib.sha256(f"likering migrations {schema}".encode()).digest()[:8], signed=True)
    cursor = connection.cursor(row_factory=tuple_row)

    async with connection.transaction():
        await cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock])
        # CREATE SCHEMA IF NOT EXISTS asks for the right to create one even if it is there already.
        await cursor.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema])
        if await cursor.fetchone() is None:
            await cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        await cursor.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
        await cursor.execute("SELECT to_regclass('schema_migrations') IS NULL")
        if await cursor.fetchone() == (True,):
            await cursor.execute(
                "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
                " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )

    for migration in known:
        async with connection.transaction():
            await cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock])
            await cursor.execute("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
            applied = await cursor.fetchall()
            _check(applied, known)
            if len(applied) < migration.version:
                await cursor.execute(migration.statements)
                await cursor.execute(
                    "INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.sha256],
                )


def _check(applied: list[tuple[int, str, str]], known: tuple[Migration, ...]) -> None:
    """Applied migrations are numbered like known ones, so they must be the first of those, byte by byte."""
    if len(applied) > len(known):
        version, name, _ = applied[-1]
        raise MigrationError(
            f"The database has migration {version:04}_{name}, this version knows only {len(known)}: it was migrated"
            " by a newer version; use that one"
        )
    for (version, name, sha256), migration in zip(applied, known, strict=False):
        if (version, name) != (migration.version, migration.name):
            raise MigrationError(
                f"The database has migration {version:04}_{name} where this version has"
                f" {migration.version:04}_{migration.name}"
            )
        if sha256 != migration.sha256:
            raise MigrationError(
                f"Migration {version:04}_{name} was changed after it was applied: the database has {sha256[:12]},"
                f" this version {migration.sha256[:12]}; add a new migration instead"
            )
