"""What a cluster's data directory holds, and the lock that lets one supervisor at a time use it."""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from likering.dev import state
from likering.dev.errors import DevError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
RESERVED_NAMES = ("router", "topology")


@dataclass
class Layout:
    """The nodes of a cluster (name → port) and the number of its slots, as kept in ``cluster.json``.

    ``admin_port``: the router's for operators, 0 while none was chosen; ``token_port``: for callers with tokens.
    ``complete``: all of it has been up once, so that all directories must be there.
    """

    directory: Path
    slots: int
    nodes: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    admin_port: int = 0
    token_port: int = 0

    @property
    def topology(self) -> Path:
        return self.directory / "topology"

    @property
    def tls(self) -> Path:
        return self.directory / "tls"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def node(self, name: str) -> Path:
        return self.directory / "nodes" / name

    def save(self) -> None:
        state.save(
            _file(self.directory),
            {
                "slots": self.slots,
                "nodes": self.nodes,
                "complete": self.complete,
                "admin_port": self.admin_port,
                "token_port": self.token_port,
            },
        )


def load(directory: Path) -> Layout | None:
    """The cluster kept in a directory, or None when there is none. Raises DevError when the directory is broken."""
    path = _file(directory)
    saved = state.load(path)
    if not saved:
        if (directory / "topology").exists() or (directory / "nodes").exists():
            raise DevError(
                f"{directory} holds a cluster without {path.name}; remove {directory} to begin anew"
            )
        return None
    try:
        nodes = {check_name(name): int(port) for name, port in saved["nodes"].items()}
        # Earlier versions kept no such ports.
        ports = (int(saved.get(name, 0)) for name in ("admin_port", "token_port"))
        return Layout(directory, int(saved["slots"]), nodes, bool(saved["complete"]), *ports)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DevError(f"{path} is not what likering wrote there; remove {directory} to begin anew") from None


def check_name(name: str) -> str:
    """The name, if a node may have it; else raises DevError."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise DevError(
            f"{name!r} cannot be a node's name: 1 to 63 lower-case letters, digits, dots, dashes and underscores"
        )
    return name


def node_names(count: int) -> list[str]:
    """a, b, c, … z, a1, b1, …: the names of a cluster of ``count`` nodes."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [letters[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(count)]


class DirectoryLock:
    """Held by the supervisor of a directory; the system gives it back when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises DevError when another process holds it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DevError(f"{self._path.parent} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise DevError(
                f"a cluster is already running in {self._path.parent} (process {holder or 'unknown'});"
                " `likering dev status` shows it, `likering dev down` stops it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _file(directory: Path) -> Path:
    return directory / "cluster.json"
