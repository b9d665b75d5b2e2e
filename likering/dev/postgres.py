"""One real Postgres server in a directory of its own: made once, started, stopped, killed, started again."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql

from likering.dev import launch, state
from likering.dev.accounts import Account, server_account
from likering.dev.binaries import POSTGRES_SETTING, PostgresBinaries, find_postgres
from likering.dev.errors import DevError, Interrupted
from likering.dev.ports import HOST, choose_port
from likering.dev.process import Child, run
from likering.dev.reach import reachable
from likering.dev.server import Server

USER = "likering"
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": HOST,
        "unix_socket_directories": "",  # their paths may be too long, and nobody needs one
        "password_encryption": "scram-sha-256",
        # Moving slots between nodes: logical replication, and statements over hundreds of partitions.
        "wal_level": "logical",
        "max_replication_slots": "64",
        "max_wal_senders": "64",
        "max_worker_processes": "32",
        "max_logical_replication_workers": "16",
        "max_slot_wal_keep_size": "4GB",
        "wal_retrieve_retry_interval": "200ms",  # up to Postgres 15 a server starts one subscription in this time
        "max_locks_per_transaction": "1024",
        "max_connections": "100",
        # A peer that died or froze holds up nobody for long.
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "2",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "2",
        "tcp_user_timeout": "5s",
        # As durable as in production, so that a kill tests something and a benchmark means something.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "shared_buffers": "256MB",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        "log_checkpoints": "off",
    }
)

_INITDB = (
    *("-U", USER, "--pwfile=/dev/stdin", "--auth=scram-sha-256"),
    *("--encoding=UTF8", "--locale=C", "--no-instructions"),
)
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
# A supervisor that dies takes its Postgres along: SIGQUIT ends all of it at once, and the next start recovers.
_DEATH_SIGNAL = signal.SIGQUIT
_STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 6.0))
_PREDECESSOR_SECONDS = 10.0
_READY = ("ready", "standby")
"""What the server writes into its pid file when it takes connections, a standby too."""


class PostgresServer(Server):
    """A Postgres server that keeps its data, port and password in ``directory``.

    Stopped, it ends open sessions and writes a checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        database: str = "likering",
        settings: Mapping[str, str] | None = None,
        log: Path | None = None,
        what: str = "Postgres",
    ) -> None:
        """``port`` 0: a free one, kept for later starts. ``settings`` are added to, or override, SETTINGS.

        ``log`` is by default ``postgres.log`` in the directory; ``what`` names the server in messages.
        """
        super().__init__(what, _STOP_STEPS)
        self.directory = directory.absolute()
        self.database = database
        self.settings = {**SETTINGS, **(settings or {})}
        self.log = log or self.directory / "postgres.log"
        self._wanted_port = port
        self._port = 0
        self._password = ""
        self._account: Account | None = None

    def __repr__(self) -> str:
        return f"PostgresServer({str(self.directory)!r}, port={self._port}, process={self._process!r})"

    @property
    def data(self) -> Path:
        """The Postgres data directory."""
        return self.directory / "data"

    @property
    def port(self) -> int:
        """0 before the first start."""
        return self._port

    @property
    def dsn(self) -> str:
        """For psycopg and libpq, with the password."""
        return self.dsn_of(self.database)

    def dsn_of(self, database: str) -> str:
        """The same for another database of the server."""
        return f"postgresql://{USER}:{self._password}@{HOST}:{self._port}/{database}?sslmode=disable"

    def dsn_as(self, role: str) -> str:
        """The same for one of the roles of ``make_roles``."""
        password = self._password_of(role)
        return f"postgresql://{role}:{password}@{HOST}:{self._port}/{self.database}?sslmode=disable"

    def make_roles(self, statements: str, names: Sequence[str]) -> None:
        """Makes roles by ``statements``, which may be run again, and gives ``names`` of them passwords."""
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statements.encode())
            for name in names:
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                        sql.Identifier(name), sql.Literal(self._password_of(name))
                    )
                )

    def _password_of(self, role: str) -> str:
        """Derived, so that there is none to be kept."""
        return hmac.digest(self._password.encode(), role.encode(), "sha256").hex()

    def start(self, timeout: float = 60, cancel: threading.Event | None = None) -> None:
        """Makes the data directory the first time, starts the server and waits until it takes connections.

        Raises DevError with a sentence for the person in front of it, and Interrupted when ``cancel`` is set meanwhile.
        """
        self._require_stopped()
        self._account = server_account()
        binaries = reachable(find_postgres(), self._account)
        self._check_data_directory(binaries)
        self._await_predecessor(cancel)
        saved = self._load(binaries)
        if not self.data.exists():
            self._initialise(binaries, cancel)
        self._configure()
        process = Child(
            [binaries.postgres, "-D", self._data_as_seen(self.data)],
            held=self.data,
            log=self.log,
            account=self._account,
            death_signal=_DEATH_SIGNAL,
            environment=_ENVIRONMENT,
        )
        with self._coming_up(process):
            process.until(self._is_ready, what=self.what, timeout=timeout, cancel=cancel)
            if saved.get("database") != self.database:
                self._create_database()
                state.save(self._file, {**saved, "database": self.database})

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to the postmaster; with SIGKILL, all of the server is gone when this returns."""
        super().kill(number)
        if number == signal.SIGKILL and self.process is not None:
            _end_orphans(self.data)

    @property
    def _file(self) -> Path:
        return self.directory / "server.json"

    def _load(self, binaries: PostgresBinaries) -> dict[str, object]:
        """Reads what the directory remembers, or makes it up the first time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = state.load(self._file)
        if "password" not in saved:
            if self.data.exists():
                raise DevError(
                    f"{self.data} has no {self._file.name} beside it; remove {self.directory} to begin anew"
                )
            saved = {"password": secrets.token_urlsafe(18), "postgres": binaries.major, "port": 0}
        port = choose_port(self._wanted_port or self._port, kept=int(saved["port"]), what=self.what)
        self._port, self._password = port, str(saved["password"])
        saved["port"] = port
        state.save(self._file, saved)
        return saved

    def _check_data_directory(self, binaries: PostgresBinaries) -> None:
        if not self.data.exists():
            return
        begin_anew = f"remove {self.directory} to begin anew"
        try:
            version = (self.data / "PG_VERSION").read_text().strip()
        except OSError:
            raise DevError(
                f"{self.data} is no whole Postgres data directory (no PG_VERSION); {begin_anew}"
            ) from None
        if version != str(binaries.major):
            raise DevError(
                f"{self.data} was made by Postgres {version}, and {binaries.bin} is Postgres {binaries.major};"
                f" set {POSTGRES_SETTING} to the bin directory of a Postgres {version}, or {begin_anew}"
            )
        if not (self.data / "global" / "pg_control").exists():
            raise DevError(
                f"{self.data} is no whole Postgres data directory (no global/pg_control); {begin_anew}"
            )

    def _await_predecessor(self, cancel: threading.Event | None) -> None:
        """Waits for the server of a supervisor that was killed: it is about to end by itself."""
        pause = cancel or threading.Event()
        deadline = time.monotonic() + _PREDECESSOR_SECONDS
        while (pid := self._postmaster()) is not None:
            if time.monotonic() > deadline:
                raise DevError(f"{self.data} is in use by another Postgres (process {pid})")
            pause.wait(0.05)
            if pause.is_set():
                raise Interrupted(f"{self.what} was stopped while it was starting")
        _end_orphans(self.data)

    def _postmaster(self) -> int | None:
        """The process that the data directory names as its server, if that runs and is one."""
        lines = self._pid_file()
        if not lines:
            return None
        pid = int(lines[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        # After a reboot the number may be somebody else's. (Only Linux can tell; elsewhere Postgres itself decides.)
        if sys.platform == "linux" and not _stands_in(pid, self.data):
            return None
        return pid

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_ready(self) -> bool:
        assert self._process is not None
        lines = self._pid_file()
        return len(lines) >= 8 and int(lines[0]) == self._process.pid and lines[7].strip() in _READY

    def _data_as_seen(self, directory: Path) -> str:
        """The name under which the server finds its data.

        User ``postgres`` may not be able to walk to a directory below root's home. Opening the parents up would be
        worse; so it gets the directory as an open file, which on Linux has a name.
        """
        if self._account is None or sys.platform != "linux":
            return str(directory)
        code, _ = run(["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)], account=self._account)
        return str(directory) if code == 0 else f"/proc/self/fd/{launch.HELD}"

    def _initialise(self, binaries: PostgresBinaries, cancel: threading.Event | None) -> None:
        """Runs initdb beside the final place and renames, so that an interrupted one leaves nothing half-made."""
        scratch = self.directory / "data.new"
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(mode=0o700)
        reading, writing = os.pipe()
        if self._account is not None:
            self._account.own(scratch)
            os.fchown(reading, self._account.uid, self._account.gid)
        with os.fdopen(reading, "rb") as password, os.fdopen(writing, "w") as file:
            file.write(self._password + "\n")
            file.close()
            code, output = run(
                [binaries.initdb, "-D", self._data_as_seen(scratch), *_INITDB, *_iterations(binaries)],
                held=scratch,
                account=self._account,
                environment=_ENVIRONMENT,
                stdin=password,
                cancel=cancel,
            )
        if code != 0:
            said = " ".join(output.split()) or f"exit code {code}"
            raise DevError(f"{self.what} could not make its data directory: {said}")
        scratch.rename(self.data)

    def _configure(self) -> None:
        """Writes the settings anew at each start: they are the code's, not the directory's."""
        lines = [
            f"{name} = {_quoted(value)}\n"
            for name, value in (*self.settings.items(), ("port", str(self._port)))
        ]
        path = self.data / "postgresql.conf"
        path.write_text(
            "# Written at each start by likering; use ALTER SYSTEM to change a setting.\n" + "".join(lines)
        )
        if self._account is not None:
            self._account.own(path)

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self.dsn_of("postgres"), autocommit=True, connect_timeout=10) as connection:
                row = connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [self.database]
                ).fetchone()
                if row is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        except psycopg.Error as error:
            raise DevError(f"{self.what} could not make the database {self.database}: {error}") from error


def _iterations(binaries: PostgresBinaries) -> Sequence[str]:
    """Fewer rounds of hashing than the 4096 that a guessable password needs: ours is 24 random characters.

    They cost each connection 8 ms of CPU, and each move of a slot makes three.
    """
    return ("-c", "scram_iterations=256") if binaries.major >= 16 else ()


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _stands_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(directory)
    except OSError:
        return False


def _end_orphans(data: Path) -> None:
    """Ends what a killed postmaster left: its children go by themselves, but not before their statement ends."""
    if sys.platform != "linux":
        return
    ours = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _stands_in(int(entry.name), data):
            with contextlib.suppress(OSError):
                # Not the shell of somebody who looks around in the data directory.
                if (entry / "exe").readlink().name == "postgres":
                    ours.append(os.pidfd_open(int(entry.name)))
    for descriptor in ours:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    for descriptor in ours:
        select.select([descriptor], [], [], 10)
        os.close(descriptor)
