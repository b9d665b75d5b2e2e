"""Connection strings as operators give them. They may hold passwords, so no message repeats a part of one."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict


def check_dsn(dsn: str) -> str:
    """The DSN, if it is a Postgres connection string; a ValueError if not."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Not with libpq's words: they quote what it could not make sense of, which may be a part of a password.
        raise ValueError(
            "this is not a Postgres connection string (postgresql://user@host:port/database, or host=… dbname=…)"
        ) from None
    return dsn
