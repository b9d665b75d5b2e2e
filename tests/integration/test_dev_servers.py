"""Postgres and Valkey servers of the embedded cluster, and the processes that they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from likering.dev.binaries import POSTGRES_SETTING
from likering.dev.errors import DevError, Interrupted
from likering.dev.ports import free_port
from likering.dev.postgres import PostgresServer
from likering.dev.process import Child, run
from likering.dev.valkey import ValkeyServer
from tests.parts.until import until

SYSTEM_POSTGRES = sorted(str(path.parent) for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture(scope="module", params=["", *SYSTEM_POSTGRES])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """The Postgres that came as a wheel, and each one of the system."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setenv(POSTGRES_SETTING, request.param)
        server = PostgresServer(tmp_path_factory.mktemp("a directory") / "server")
        server.start()
        yield server
        server.stop()


def shown(server: PostgresServer, setting: str) -> str:
    with psycopg.connect(server.dsn) as connection:
        row = connection.execute(f"SHOW {setting}".encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_postgres_is_as_durable_and_capable_as_in_production(server: PostgresServer) -> None:
    """The settings that resizing needs and that a kill must be able to test."""
    for setting, value in {
        "wal_level": "logical",
        "max_locks_per_transaction": "1024",
        "client_connection_check_interval": "1s",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
    }.items():
        assert shown(server, setting) == value


def test_postgres_lets_nobody_in_without_the_password(server: PostgresServer) -> None:
    """Other users of the machine can reach the port, too."""
    wrong = server.dsn.replace(server.dsn.split(":")[2].split("@")[0], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_postgres_does_not_run_as_root(server: PostgresServer) -> None:
    """It would refuse; so it is another user, even where that one cannot walk to the data directory."""
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().effective != 0
    assert psutil.Process(server.pid).cwd() == str(server.data)


def test_postgres_keeps_data_port_and_password(server: PostgresServer) -> None:
    """Over a stop, and in a new object for the same directory."""
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
    dsn = server.dsn
    server.stop()
    assert server.pid is None
    again = PostgresServer(server.directory)
    again.start()
    try:
        assert again.dsn == dsn
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (1,)
    finally:
        again.stop()
        server.start()
    assert server.dsn == dsn


def test_a_killed_postgres_is_gone_with_its_busy_sessions(server: PostgresServer) -> None:
    """Sessions look for their postmaster only between statements; a start right after the kill must not meet them."""
    busy = psycopg.connect(server.dsn)
    pid = busy.info.backend_pid

    def work() -> None:
        with pytest.raises(psycopg.Error):
            busy.execute("SELECT count(*) FROM generate_series(1, 1000000000)")

    thread = threading.Thread(target=work)
    thread.start()
    backend = psutil.Process(pid)
    server.kill()
    assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    thread.join(10)
    server.start()
    assert shown(server, "wal_level") == "logical"
    busy.close()


def test_two_servers_cannot_have_one_directory(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one says which process has it."""
    monkeypatch.setattr("likering.dev.postgres._PREDECESSOR_SECONDS", 0.2)
    with pytest.raises(DevError, match=f"in use by another Postgres \\(process {server.pid}\\)"):
        PostgresServer(server.directory).start()
    assert shown(server, "wal_level") == "logical"


def test_a_start_waits_for_the_server_before(server: PostgresServer) -> None:
    """That of a supervisor that was killed is about to end, and nobody has to know."""

    class Meanwhile(threading.Event):
        """Is waited on between two looks at the other server, which ends then."""

        def wait(self, timeout: float | None = None) -> bool:
            server.stop()
            return super().wait(timeout)

    successor = PostgresServer(server.directory)
    successor.start(cancel=Meanwhile())
    try:
        assert server.process is not None
        assert server.process.ending == "exit code 0"
        assert shown(successor, "wal_level") == "logical"
    finally:
        successor.stop()
        server.start()


def test_a_start_can_be_given_up(tmp_path: Path) -> None:
    """At once and in the middle of initdb; nothing half-made is taken for whole."""
    server = PostgresServer(tmp_path / "server")
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    with pytest.raises(Interrupted):
        server.start(cancel=cancel)
    timer.join()
    assert server.pid is None
    server.start()
    server.stop()


def test_valkey_keeps_port_and_password(tmp_path: Path) -> None:
    """Over a stop; what it held is gone, for it is a cache."""
    server = ValkeyServer(tmp_path / "a directory")
    server.start()
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
    server.stop()
    again = ValkeyServer(tmp_path / "a directory")
    again.start()
    try:
        assert again.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("key") is None
        with redis.Redis(port=again.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("key")
    finally:
        again.stop()


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer])
def test_a_server_whose_port_is_taken(
    kind: type[PostgresServer] | type[ValkeyServer], tmp_path: Path
) -> None:
    """A wanted port is used or refused; a kept one that somebody took meanwhile is replaced."""
    other = ValkeyServer(tmp_path / "other")
    other.start()
    try:
        with pytest.raises(DevError, match=f"cannot listen on 127.0.0.1:{other.port}"):
            kind(tmp_path / "server", other.port).start()
        port = free_port()
        first = kind(tmp_path / "server", port)
        first.start()
        first.stop()
        squatter = ValkeyServer(tmp_path / "squatter", port)
        squatter.start()
        second = kind(tmp_path / "server")
        second.start()
        assert second.port != port
        second.stop()
        squatter.stop()
    finally:
        other.stop()


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel's death signal comes when a thread ends, not only when a process does."""
    children: list[Child] = []

    def start() -> None:
        child = Child(SLEEP, log=tmp_path / "log")
        children.append(child)
        # Before that it has not asked for the signal yet.
        child.until(lambda: psutil.Process(child.pid).cmdline() == SLEEP, what="sleep", timeout=10)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (child,) = children
    assert not child.wait(0.5)
    child.kill()
    assert child.ending == "SIGKILL"


async def test_a_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """However the parent ended."""
    parent, child = start_parent(tmp_path)
    with parent:
        await until(lambda: child.cmdline() == SLEEP)
        parent.send_signal(signal.SIGKILL)
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def start_parent(tmp_path: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Another process that has a child."""
    script = (
        "import sys; from pathlib import Path; from likering.dev.process import Child;"
        f"print(Child({SLEEP!r}, log=Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


async def test_a_childs_group_goes_with_it(tmp_path: Path) -> None:
    """What a process has started does not go on when it is killed."""
    child = Child(["/bin/sh", "-c", "sleep 1000 & echo started; wait"], log=tmp_path / "log")
    child.until(lambda: "started" in child.output(), what="the shell", timeout=10)
    (below,) = child.descendants()
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10)
    # It has been killed by now, which takes it a moment on a busy machine.
    await until(
        lambda: not psutil.pid_exists(below) or psutil.Process(below).status() == psutil.STATUS_ZOMBIE
    )


def test_a_child_that_ends_at_its_start(tmp_path: Path) -> None:
    """The last line that it wrote is the reason given."""
    child = Child(["/bin/sh", "-c", "echo first; echo the reason >&2; exit 7"], log=tmp_path / "log")
    with pytest.raises(DevError, match=r"it ended at its start \(exit code 7\): the reason \(see .*log\)"):
        child.until(lambda: False, what="it", timeout=10)


def test_a_child_that_does_not_get_ready(tmp_path: Path) -> None:
    """Within the time."""
    child = Child(SLEEP, log=tmp_path / "log")
    with pytest.raises(DevError, match="it was not ready after 0 s"):
        child.until(lambda: False, what="it", timeout=0.1)
    child.kill()


def test_a_child_that_ignores_its_stop(tmp_path: Path) -> None:
    """It is killed after the time it was given."""
    child = Child(["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000"], log=tmp_path / "log")
    child.until(lambda: "ready" in child.output(), what="the shell", timeout=10)
    child.stop([(signal.SIGTERM, 0.2)])
    assert child.ending == "SIGKILL"


def test_a_program_that_is_not_there() -> None:
    """Its name and the reason."""
    code, output = run(["/nowhere/program"])
    assert code == 1
    assert output == "launch: cannot run /nowhere/program: No such file or directory"
