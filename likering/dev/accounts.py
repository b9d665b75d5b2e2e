"""Which user runs Postgres: ourselves, or an unprivileged one when we are root (Postgres refuses to run as root)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from likering.dev.errors import DevError

UNPRIVILEGED = ("postgres", "nobody")
"""Tried in this order."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Gives the file or directory itself (not what is in it) to this account."""
        try:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
        except OSError as error:
            raise DevError(f"{path} cannot be given to user {self.name}: {error.strerror}") from error


def server_account(names: Sequence[str] = UNPRIVILEGED) -> Account | None:
    """The account Postgres has to run as, or None for our own. Raises DevError when root finds no such user."""
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise DevError(
        f"Postgres does not run as root, and this machine has none of the users {', '.join(names)};"
        " add one or run this as another user"
    )
