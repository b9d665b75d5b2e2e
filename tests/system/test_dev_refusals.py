"""What ``likering dev up`` cannot do is one clear sentence, and nothing is left running."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts.dev_up import refusal, run_dev

pytestmark = pytest.mark.timeout(240)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a cluster of one node that was made and stopped. To be copied."""
    data = tmp_path_factory.mktemp("made") / "data"
    done = run_dev("up", "--once", "--port", "0", "--nodes", "1", data=data)
    assert done.returncode == 0, done.stderr
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to break."""
    copy = tmp_path / "data"
    # As cp -a does: the Postgres directories belong to another user when we are root.
    subprocess.run(["cp", "-a", str(made), str(copy)], check=True)
    return copy


def up(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_dev("up", "--once", "--port", "0", *arguments, data=data)


def test_a_taken_port(tmp_path: Path) -> None:
    """The sentence names the port; nothing has been started by then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_dev("up", "--port", str(port), data=tmp_path / "data")
    sentence = refusal(done)
    assert f"127.0.0.1:{port}" in sentence
    assert "something else listens there" in sentence
    assert "serves" not in done.stdout


def remove_version(data: Path) -> None:
    (data / "nodes/a/postgres/data/PG_VERSION").unlink()


def remove_control_file(data: Path) -> None:
    (data / "topology/data/global/pg_control").unlink()


def older_version(data: Path) -> None:
    (data / "nodes/a/postgres/data/PG_VERSION").write_text("14\n")


def remove_server_file(data: Path) -> None:
    (data / "topology/server.json").unlink()


def remove_cluster_file(data: Path) -> None:
    (data / "cluster.json").unlink()


def garble_cluster_file(data: Path) -> None:
    (data / "cluster.json").write_text("{half")


def strange_cluster_file(data: Path) -> None:
    (data / "cluster.json").write_text(json.dumps({"slots": "many", "nodes": []}))


def remove_node(data: Path) -> None:
    shutil.rmtree(data / "nodes/a")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_version, "no whole Postgres data directory (no PG_VERSION); remove"),
        (remove_control_file, "no whole Postgres data directory (no global/pg_control); remove"),
        (older_version, "was made by Postgres 14, and"),
        (remove_server_file, "has no server.json beside it; remove"),
        (remove_cluster_file, "holds a cluster without cluster.json; remove"),
        (garble_cluster_file, "cluster.json cannot be read"),
        (strange_cluster_file, "cluster.json is not what likering wrote there; remove"),
        (remove_node, "the data of node a is gone from"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "says",
)
def test_a_broken_data_directory(data: Path, damage: Callable[[Path], None], expected: str) -> None:
    """Says which directory is broken and what to do about it."""
    damage(data)
    sentence = refusal(up(data))
    assert expected in sentence
    assert str(data) in sentence


def test_a_half_made_postgres_directory_is_made_again(data: Path) -> None:
    """An initdb that was interrupted leaves its own directory, which nobody needs."""
    (data / "nodes/a/postgres/data.new").mkdir()
    (data / "nodes/a/postgres/data.new/PG_VERSION").write_text("18\n")
    assert up(data).returncode == 0


def test_another_number_of_nodes(data: Path) -> None:
    """The number of nodes counts for a new cluster only."""
    assert "has 1 nodes (a)" in refusal(up(data, "--nodes", "3"))


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Somebody has a file of that name."""
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in refusal(up(tmp_path / "data"))


@pytest.mark.parametrize("command", ["status", "down", "env"])
def test_no_cluster_is_running(tmp_path: Path, command: str) -> None:
    """Nor was one ever made there."""
    assert refusal(run_dev(command, data=tmp_path)).startswith(f"no cluster is running in {tmp_path}")


@pytest.mark.parametrize("setting", ["LIKERING_DEV_POSTGRES_BIN", "LIKERING_DEV_VALKEY_SERVER"])
def test_a_wrong_setting_for_server_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """An explicit setting is never passed over in silence."""
    monkeypatch.setenv(setting, str(tmp_path / "nothing"))
    sentence = refusal(up(tmp_path / "data"))
    assert setting in sentence
    assert str(tmp_path / "nothing") in sentence


def test_scripts_up_needs_a_python(tmp_path: Path) -> None:
    """scripts/up with only an old python3 on the path."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "up", tmp_path / "scripts")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python3").chmod(0o755)
    for program in ("sh", "dirname", "cat"):
        (programs / program).symlink_to(str(shutil.which(program)))
    done = subprocess.run(
        [tmp_path / "scripts" / "up"],
        capture_output=True,
        text=True,
        env={"PATH": str(programs), "HOME": os.environ.get("HOME", "/")},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "scripts/up: likering needs Python 3.11 or newer, and no python3 here is\n"
