"""What a server of a development cluster is: Postgres, Valkey or a likering process, one process of it at a time."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from likering.dev.errors import DevError
from likering.dev.process import Child


class Server(ABC):
    """Started, stopped, killed and started again."""

    def __init__(self, what: str, stop_steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """``what`` names it in messages. ``stop_steps``: signals, and seconds that it has to end after each."""
        self.what = what
        self._stop_steps = stop_steps
        self._process: Child | None = None

    @property
    @abstractmethod
    def port(self) -> int:
        """What it serves on."""

    @property
    def pid(self) -> int | None:
        """Its first process, while it runs."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def process(self) -> Child | None:
        """The newest process, running or not."""
        return self._process

    @abstractmethod
    def start(self, timeout: float = 60, cancel: threading.Event | None = None) -> None:
        """Starts it and waits until it serves. Raises DevError with a sentence, Interrupted on ``cancel``."""

    def _require_stopped(self) -> None:
        if self.pid is not None:
            raise DevError(f"{self.what} runs already (process {self.pid})")

    @contextmanager
    def _coming_up(self, process: Child) -> Iterator[Child]:
        """The process is ours from now on. An error within the ``with`` block ends it."""
        self._process = process
        try:
            yield process
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """Stops it in order. Safe to call twice."""
        if self._process is not None:
            self._process.stop(self._stop_steps)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to its first process; with SIGKILL, all of it is gone when this returns."""
        if self._process is None:
            return
        if number == signal.SIGKILL:
            self._process.kill()
        else:
            self._process.send(number)
