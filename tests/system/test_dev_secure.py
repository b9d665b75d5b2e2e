"""``likering dev up --secure``, as somebody types it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from likering import LikeringError, LikeTracker
from likering.client.credentials import credentials_from_files
from tests.parts.dev_up import DevUp

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevUp]:
    with DevUp(tmp_path_factory.mktemp("dev") / "data", "--nodes", "1", "--secure") as up:
        up.said = up.until_said("likering serves on")
        yield up


def test_it_says_how_to_connect(up: DevUp) -> None:
    said = "\n".join(up.said)
    tls = up.data / "tls"
    assert f"callers show {tls / 'app.pem'} with {tls / 'app.key'}, and trust {tls / 'ca.pem'};" in said
    assert "true" in said.lower()  # the README's example ran
    assert "Postgres and Valkey ask for passwords, on the loopback interface" in said


def test_what_it_says_works(up: DevUp) -> None:
    router, tls = up.status()["router"], up.data / "tls"
    shown = credentials_from_files(ca=tls / "ca.pem", certificate=tls / "app.pem", key=tls / "app.key")
    with LikeTracker(router["address"], credentials=shown) as likes:
        assert likes.like("u1", "secure")
    with pytest.raises(LikeringError) as caught, LikeTracker(router["address"]) as likes:
        likes.like("u1", "secure")
    assert "it may want TLS" in caught.value.message


def test_a_token_is_for_its_user(up: DevUp) -> None:
    made = up.run("token", "alice")
    assert made.returncode == 0, made.stderr
    ca = credentials_from_files(ca=up.data / "tls" / "ca.pem")
    address = up.status()["router"]["token_address"]
    with LikeTracker(address, credentials=ca, token=made.stdout.strip()) as likes:
        assert likes.like("alice", "secure")
        with pytest.raises(LikeringError) as caught:
            likes.like("bob", "secure")
    assert caught.value.reason == "OTHER_USER"


def test_env_is_for_operators(up: DevUp) -> None:
    lines = up.run("env").stdout.splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    environment = {name: value.strip("'") for name, value in exported.items()}
    assert {Path(environment[f"LIKERING_TLS_{name}"]).name for name in ("CA", "CERTIFICATE", "KEY")} == {
        "ca.pem",
        "operator.pem",
        "operator.key",
    }
    for command in (("ring", "status"), ("cluster", "show")):
        done = subprocess.run(
            [sys.executable, "-m", "likering.cli", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr


def test_keys_are_for_their_owner_only(up: DevUp) -> None:
    assert (up.data / "tls").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in (up.data / "tls").iterdir()} == {0}


def test_a_cluster_that_is_open_makes_no_tokens(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "likering.cli", "dev", "token", "alice", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr == f"likering: no cluster in {tmp_path} was started with --secure\n"
