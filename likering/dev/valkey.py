"""One real Valkey (or Redis) server in a directory of its own, as a cache: nothing is saved to disk."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from pathlib import Path

import redis

from likering.dev import state
from likering.dev.binaries import find_valkey
from likering.dev.ports import HOST, choose_port
from likering.dev.process import Child
from likering.dev.server import Server

_STOP_STEPS = ((signal.SIGTERM, 5.0),)


class ValkeyServer(Server):
    """A Valkey server that keeps its port and password in ``directory``. Stopped, it has forgotten all counts."""

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        max_memory: str = "256mb",
        log: Path | None = None,
        what: str = "Valkey",
    ) -> None:
        """``port`` 0: a free one, kept for later starts. At ``max_memory`` the least used keys go.

        ``log`` is by default ``valkey.log`` in the directory; ``what`` names the server in messages.
        """
        super().__init__(what, _STOP_STEPS)
        self.directory = directory.absolute()
        self.max_memory = max_memory
        self.log = log or self.directory / "valkey.log"
        self._wanted_port = port
        self._port = 0
        self._password = ""

    def __repr__(self) -> str:
        return f"ValkeyServer({str(self.directory)!r}, port={self._port}, process={self._process!r})"

    @property
    def port(self) -> int:
        """0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """For redis-py's ``from_url``, with the password."""
        return f"redis://:{self._password}@{HOST}:{self._port}/0"

    def start(self, timeout: float = 30, cancel: threading.Event | None = None) -> None:
        """Starts the server and waits until it answers. Raises DevError with a sentence, Interrupted on ``cancel``."""
        self._require_stopped()
        program = find_valkey()
        self._load()
        configuration = self._configure()
        with self._coming_up(Child([str(program), str(configuration)], log=self.log)) as process:
            process.until(self._is_ready, what=self.what, timeout=timeout, cancel=cancel)

    def _load(self) -> None:
        """Reads what the directory remembers, or makes it up the first time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "server.json"
        saved = state.load(path)
        port = choose_port(self._wanted_port or self._port, kept=int(saved.get("port", 0)), what=self.what)
        self._port, self._password = port, str(saved.get("password") or secrets.token_urlsafe(18))
        state.save(path, {"port": port, "password": self._password})

    def _configure(self) -> Path:
        # The password stands in a file and not in the arguments, which every user of the machine can read.
        lines = [
            f"dir {_quoted(str(self.directory))}",  # else it would be whatever directory this process was started in
            f"bind {HOST}",
            f"port {self._port}",
            f"requirepass {self._password}",
            "daemonize no",
            'save ""',
            "appendonly no",
            f"maxmemory {self.max_memory}",
            "maxmemory-policy allkeys-lru",
            "tcp-keepalive 5",
        ]
        path = self.directory / "valkey.conf"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def _is_ready(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()


def _quoted(text: str) -> str:
    """As a value of the server's configuration file."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
