"""A streaming standby of an embedded Postgres, which may take its place at the same address."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psycopg

from likering.dev.accounts import server_account
from likering.dev.binaries import find_postgres
from likering.dev.part import Part
from likering.dev.postgres import PostgresServer

_DEADLINE = 20.0


class Standby:
    """Every call blocks."""

    def __init__(self, primary: PostgresServer, directory: Path) -> None:
        self._primary = primary
        self._server = PostgresServer(directory, database=primary.database, what="the standby")

    @property
    def dsn(self) -> str:
        """Of the node's database, as the standby has it."""
        return self._server.dsn

    def dsn_as(self, role: str) -> str:
        """The same for one of the roles of a secured node."""
        return self._server.dsn_as(role)

    def follow(self, *, synchronous: bool = True) -> None:
        """Copies the primary and streams from it; from the return on the primary's commits wait for the standby.

        Unless it is not to be ``synchronous``: then they never wait.
        """
        data = self._server.data
        self._server.directory.mkdir(parents=True, exist_ok=True)
        program = find_postgres().bin / "pg_basebackup"
        subprocess.run(
            [program, "-d", self._primary.dsn, "-D", data, "-X", "stream", "-R", "-c", "fast"],
            check=True,
            capture_output=True,
        )
        account = server_account()
        if account is not None:
            for path in (data, *data.rglob("*")):
                account.own(path)
        # The accounts came with the copy, their passwords too; only the port is the standby's own.
        known = json.loads((self._primary.directory / "server.json").read_text())
        (self._server.directory / "server.json").write_text(json.dumps({**known, "port": 0}))
        self._server.start()
        with psycopg.connect(self._primary.dsn, autocommit=True) as connection:
            state = "state = 'streaming'"
            if synchronous:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
                state = "sync_state = 'sync'"
            deadline = time.monotonic() + _DEADLINE
            query = f"SELECT FROM pg_stat_replication WHERE application_name = 'walreceiver' AND {state}"
            while connection.execute(query).fetchone() is None:
                assert time.monotonic() < deadline, "the standby does not stream"
                time.sleep(0.05)

    def promote(self) -> None:
        """It takes writes from now on, where it is."""
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def stop(self) -> None:
        """Ends it in order."""
        self._server.stop()

    def start(self) -> None:
        """Follows the primary again after a stop."""
        self._server.start()

    def take_over(self, part: Part) -> None:
        """The primary, which ``part`` runs, is gone at once; the standby is promoted and serves at its address."""
        self._primary.kill()
        part.stop()
        self.promote()
        self._server.stop()
        self._primary.data.rename(self._primary.directory / f"data.{time.monotonic_ns()}")
        self._server.data.rename(self._primary.data)
        part.start()
