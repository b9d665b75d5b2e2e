"""However ``likering dev up`` ends, it leaves no process behind, and the next start finds all likes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from likering import LikeTracker
from tests.parts.dev_up import DevUp, refusal, run_dev

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that the tests of this module use one after the other."""
    return tmp_path_factory.mktemp("endings") / "data"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_a_signal_stops_everything(data: Path, number: signal.Signals) -> None:
    """Ctrl-C, a service's stop, and a terminal that was closed: exit code 0, nothing left."""
    with DevUp(data, "--nodes", "1") as up:
        up.until_serving()
        assert up.end(number) == 0
        assert up.left(timeout=0) == []


def test_a_second_ctrl_c_does_not_leave_anything(data: Path) -> None:
    """Who presses it again and again still gets an orderly end."""
    with DevUp(data) as up:
        up.until_serving()
        for _ in range(3):
            up.process.send_signal(signal.SIGINT)
        assert up.end(signal.SIGINT) == 0
        assert up.left(timeout=0) == []


@pytest.mark.parametrize("moment", ["starting", "Valkey", "created a cluster"])
def test_ctrl_c_while_it_is_starting(tmp_path: Path, moment: str) -> None:
    """At any moment of a first start; what is half-made then does not disturb the next one."""
    with DevUp(tmp_path / "data", "--nodes", "1") as up:
        up.until_said(moment)
        up.remember_processes()
        assert up.end(signal.SIGINT) == 0
        assert moment == "starting" or up.left(timeout=0) == []
    assert processes_of(tmp_path) == []
    with DevUp(tmp_path / "data", "--once") as up:
        assert "1" in up.until_said("stopped")


def test_a_supervisor_that_is_killed_takes_everything_along(data: Path) -> None:
    """SIGKILL cannot be handled; the parts end all the same, and the next start recovers what was acknowledged."""
    with DevUp(data) as up:
        up.until_serving()
        with LikeTracker(up.status()["router"]["address"]) as likes:
            likes.like("u1", "survivor")
        up.end(signal.SIGKILL)
        assert up.left(timeout=20) == []
        socket = Path(json.loads((data / "supervisor.json").read_text())["socket"])
        assert refusal(run_dev("status", data=data)).startswith("no cluster is running")
    with DevUp(data) as up:
        up.until_serving()
        with LikeTracker(up.status()["router"]["address"]) as likes:
            assert likes.has_liked("u1", "survivor") is True
            assert likes.like_count("survivor") == 1
    assert not socket.parent.exists()


def test_a_start_right_after_the_kill(data: Path) -> None:
    """Nobody has to wait until the old processes have gone."""
    with DevUp(data) as up:
        up.until_serving()
        up.end(signal.SIGKILL)
        with DevUp(data) as next_up:
            next_up.until_serving()
            assert up.left(timeout=20) == []


def test_frozen_parts_are_stopped_too(data: Path) -> None:
    """A process that was stopped with SIGSTOP goes on, and ends in order."""
    with DevUp(data) as up:
        up.until_serving()
        parts = up.status()["nodes"][0]["parts"]
        for part in parts.values():
            psutil.Process(part["pid"]).suspend()
        assert up.end(signal.SIGINT) == 0
        assert up.left(timeout=0) == []
    for name, last in {"node": "drained", "postgres": "database system is shut down"}.items():
        assert last in (data / "logs" / f"a-{name}.log").read_text().splitlines()[-1]


def test_once_stops_after_the_example(data: Path) -> None:
    """With the answers of the README, the second time as well."""
    for _ in range(2):
        done = run_dev("up", "--once", "--port", "0", data=data)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        begin = lines.index("the README's example says:") + 1
        assert lines[begin : begin + 6] == ["True", "True", "True", "2", "False", "1"]
        assert lines[-1] == "stopped"
    assert processes_of(data) == []


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those that name a directory in their arguments, or stand in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in " ".join([process.cwd(), *process.cmdline()]):
                found.append(process)
        except psutil.Error:
            continue
    return found
