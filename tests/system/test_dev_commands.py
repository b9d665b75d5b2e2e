"""The commands of ``likering dev`` on a running cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest

from likering import LikeTracker
from tests.parts.dev_up import DevUp, refusal
from tests.parts.until import until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevUp]:
    """A supervisor with a cluster of two nodes."""
    with DevUp(tmp_path_factory.mktemp("dev") / "data with a space", "--nodes", "2") as up:
        up.until_serving()
        yield up


def test_status_shows_all_parts(up: DevUp) -> None:
    """As a table and as JSON, whose addresses and connection strings work."""
    status = json.loads(up.run("status", "-o", "json").stdout)
    assert status["pid"] == up.process.pid
    assert [node["name"] for node in status["nodes"]] == ["a", "b"]
    for part in (status["router"], status["topology"], *status["nodes"][0]["parts"].values()):
        assert part["state"] == "serving"
        assert part["pid"]
        assert part["restarts"] == 0
    with LikeTracker(status["router"]["address"]) as likes:
        assert likes.like("u1", "status") is True
    for dsn in (status["topology"]["dsn"], *(node["postgres_dsn"] for node in status["nodes"])):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
    table = up.run("status")
    assert table.returncode == 0
    addresses = (status["router"]["address"], status["router"]["admin_address"])
    for word in ("router", "topology", "postgres", "valkey", "serving", *addresses):
        assert word in table.stdout


def test_operators_are_served_on_a_port_of_their_own(up: DevUp) -> None:
    """``likering ring`` finds the router there, and it keeps it over restarts."""
    address = up.status()["router"]["admin_address"]
    command = [sys.executable, "-m", "likering.cli", "ring", "status", "--admin", address, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    nodes = json.loads(done.stdout)["topology"]["nodes"]
    assert [(node["name"], node["slots"]) for node in nodes] == [("a", 32), ("b", 32)]
    kept = json.loads((up.data / "cluster.json").read_text())["admin_port"]
    assert address == f"127.0.0.1:{kept}"


def test_no_secret_is_shown_to_other_users(up: DevUp) -> None:
    """Every user of the machine can read arguments; passwords are in no process's."""
    status = up.status()
    password = status["topology"]["dsn"].split(":")[2].split("@")[0]
    cache_password = status["nodes"][0]["cache_url"].split(":")[2].split("@")[0]
    for process in psutil.Process(up.process.pid).children(recursive=True):
        arguments = " ".join(process.cmdline())
        assert password not in arguments
        assert cache_password not in arguments
        assert "postgresql://" not in arguments


@pytest.mark.parametrize(
    ("name", "part"),
    [("a", "node"), ("a", "postgres"), ("a", "valkey"), ("router", "router"), ("topology", "postgres")],
    ids=["node", "postgres", "valkey", "router", "topology"],
)
async def test_a_killed_part_comes_back(up: DevUp, name: str, part: str) -> None:
    """``kill`` ends the process and supervision starts a new one; likes are still there."""
    before = up.status()
    old = find(before, name, part)
    post = f"kill-{name}-{part}"
    options = ["--part", part] if name == "a" else []
    with LikeTracker(before["router"]["address"], timeout=30) as likes:
        likes.like("u1", post)
        assert up.run("kill", name, *options).returncode == 0
        await until(lambda: find(up.status(), name, part)["restarts"] == old["restarts"] + 1, 60)
        new = find(up.status(), name, part)
        assert new["state"] == "serving"
        assert new["pid"] != old["pid"]
        assert likes.has_liked("u1", post) is True
        likes.like("u2", post)
        assert likes.like_count(post) == 2


def find(status: dict[str, Any], name: str, part: str) -> dict[str, Any]:
    """One part in the status."""
    if name in ("router", "topology"):
        found: dict[str, Any] = status[name]
    else:
        found = find_node(status, name)["parts"][part]
    return found


def find_node(status: dict[str, Any], name: str) -> dict[str, Any]:
    """One node in the status."""
    return next(node for node in status["nodes"] if node["name"] == name)


def test_nodes_are_added_stopped_and_started_again(up: DevUp) -> None:
    """A stopped node stays down; the same name brings it back with its data and address."""
    assert up.run("add-node", "extra").returncode == 0
    added = find_node(up.status(), "extra")
    assert {part["state"] for part in added["parts"].values()} == {"serving"}
    assert "runs already" in refusal(up.run("add-node", "extra"))

    assert up.run("stop-node", "extra").returncode == 0
    stopped = find_node(up.status(), "extra")
    assert {(part["state"], part["pid"]) for part in stopped["parts"].values()} == {("stopped", None)}
    assert "not running" in refusal(up.run("kill", "extra"))

    assert up.run("add-node", "extra").returncode == 0
    again = find_node(up.status(), "extra")
    assert (again["address"], again["postgres_dsn"]) == (added["address"], added["postgres_dsn"])


def test_mistakes_are_one_sentence(up: DevUp) -> None:
    """And change nothing."""
    assert refusal(up.run("kill", "nobody")).startswith("there is no node nobody")
    assert refusal(up.run("stop-node", "nobody")).startswith("there is no node nobody")
    assert "cannot be a node's name" in refusal(up.run("add-node", "No/Such"))
    assert "cannot be a node's name" in refusal(up.run("add-node", "router"))
    assert "already running" in refusal(up.run("up", "--port", "0"))
    assert f"process {up.process.pid}" in refusal(up.run("up", "--port", "0"))


def test_env_prints_settings_for_a_shell(up: DevUp) -> None:
    """For ``eval "$(likering dev env)"``."""
    status = up.status()
    assert up.run("env").stdout.splitlines() == [
        f"export LIKERING_ADDRESS='{status['router']['address']}'",
        f"export LIKERING_ADMIN='{status['router']['admin_address']}'",
        f"export LIKERING_TOPOLOGY='{status['topology']['dsn']}'",
    ]


def test_down_stops_everything(up: DevUp) -> None:
    """When the command returns, the supervisor and all that it had started are gone."""
    up.remember_processes()
    assert up.run("down").returncode == 0
    assert up.left(timeout=0) == []
    up.process.communicate(timeout=10)
    assert up.process.returncode == 0
    for command in (["status"], ["down"], ["kill", "a"]):
        assert refusal(up.run(*command)).startswith("no cluster is running")
