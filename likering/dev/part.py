"""One part of the cluster under supervision: a server that is started again when it ends by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from likering.dev.errors import DevError, Interrupted
from likering.dev.server import Server

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_STEADY_SECONDS = 10.0
"""A part that ran this long and ends is started again without delay."""


class PartState(StrEnum):
    """Where a part is."""

    STOPPED = "stopped"
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting to start again"
    ENDED = "ended"


class Part:
    """Starts, supervises and stops one server. Its methods are called by one thread at a time."""

    def __init__(self, server: Server, *, supervise: bool, report: Callable[[str], None]) -> None:
        """``report`` gets a sentence when the server ended by itself and when it serves again."""
        self.server = server
        self.restarts = 0
        self.trouble: str | None = None
        """Why it ended, or did not come up, the last time that it did."""
        self._supervise = supervise
        self._report = report
        self._state = PartState.STOPPED
        self._leaving = threading.Event()
        self._watcher: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Part({self.server.what!r}, {self.state}, pid={self.pid}, restarts={self.restarts})"

    @property
    def pid(self) -> int | None:
        return self.server.pid

    @property
    def state(self) -> PartState:
        """A server that just died is never SERVING, whether the watcher knows already or not."""
        if self._state is PartState.SERVING and self.server.pid is None:
            return PartState.ENDED
        return self._state

    @property
    def is_serving(self) -> bool:
        """Whether the server came up and has not ended since."""
        return self.state is PartState.SERVING

    def start(self, cancel: threading.Event | None = None) -> None:
        """Starts the server and, once it serves, supervises it. Raises DevError when it does not come up."""
        self._state = PartState.STARTING
        self.trouble = None
        try:
            self.server.start(cancel=cancel)
        except BaseException:
            self._state = PartState.STOPPED
            raise
        self._state = PartState.SERVING
        if self._supervise:
            self._leaving = threading.Event()
            self._watcher = threading.Thread(
                target=self._watch, args=(self._leaving,), name=f"watch {self.server.what}", daemon=True
            )
            self._watcher.start()

    def stop(self) -> None:
        """Stops the server for good. Safe to call twice, and when it never started."""
        self._leaving.set()
        # First the server: the watcher may be waiting for its end. Once more after the watcher has gone, for it may
        # have been starting a new one.
        self.server.stop()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
            self.server.stop()
        self._state = PartState.STOPPED

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to the server as it runs now; supervision then does what it does."""
        self.server.kill(number)

    def _watch(self, leaving: threading.Event) -> None:
        pause = 0.0
        while True:
            process = self.server.process
            assert process is not None
            since = time.monotonic()
            process.wait()
            if leaving.is_set():
                return
            pause = 0.0 if time.monotonic() - since > _STEADY_SECONDS else pause
            self.trouble = f"{self.server.what} ended ({process.ending}){process.last_words()}"
            self._report(f"{self.trouble}; starting it again")
            while not self._again(leaving, pause):
                if leaving.is_set():
                    return
                pause = _longer(pause)
            pause = _longer(pause)

    def _again(self, leaving: threading.Event, pause: float) -> bool:
        """Waits and tries to start the server; whether it serves."""
        self._state = PartState.WAITING
        if leaving.wait(pause):
            return False
        self._state = PartState.STARTING
        try:
            self.server.start(cancel=leaving)
        except Interrupted:
            return False
        except DevError as error:
            self.trouble = str(error)
            self._report(f"{error}; trying again")
            return False
        self._state = PartState.SERVING
        self.restarts += 1
        self._report(f"{self.server.what} serves again (process {self.server.pid})")
        return True


def _longer(pause: float) -> float:
    return min(_LONGEST_PAUSE, max(_FIRST_PAUSE, pause * 2))
