"""Child processes that never outlive us: own process group, output into a log file, killed when we die.

A death signal comes when the thread that forked ends, so one thread that lives as long as this process spawns all.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from likering.dev import launch
from likering.dev.accounts import Account
from likering.dev.errors import DevError, Interrupted

_LAUNCH = str(Path(launch.__file__))
_LOG_BYTES = 16 * 1024 * 1024
_POLL_SECONDS = 0.02


@functools.cache
def _spawner(pid: int) -> ThreadPoolExecutor:
    """The spawning thread of this process (by pid: a forked copy of us needs its own)."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"spawn-{pid}")


def _popen(
    arguments: Sequence[str],
    *,
    held: Path | None,
    account: Account | None,
    death_signal: signal.Signals,
    environment: Mapping[str, str] | None,
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    uid, gid = (account.uid, account.gid) if account else (launch.SAME, launch.SAME)
    command = [sys.executable, "-I", "-S", _LAUNCH]
    command += [str(os.getpid()), str(int(death_signal)), str(uid), str(gid), str(held or ""), *arguments]

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT, process_group=0
        )

    return _spawner(os.getpid()).submit(spawn).result()


class Child:
    """A running server process. Its end is an event that any thread may wait for."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        held: Path | None = None,
        account: Account | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts ``arguments`` (the first is the program's whole path) as ``account``, in the root directory.

        ``held`` is a directory that is open as file descriptor ``launch.HELD`` even if the account cannot walk to it.

        ``death_signal`` is what the process gets when we die without stopping it. Output is appended to ``log``.
        """
        self.name = Path(arguments[0]).name
        self.log = log
        self._log_start = _rotate(log)
        self._ended = threading.Event()
        with log.open("ab") as output:
            self._popen = _popen(
                arguments,
                held=held,
                account=account,
                death_signal=death_signal,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
            )
        self.pid = self._popen.pid
        threading.Thread(target=self._await_end, name=f"wait-{self.pid}", daemon=True).start()

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended {self.exit_code}"
        return f"Child({self.name}, pid={self.pid}, {state})"

    def _await_end(self) -> None:
        self._popen.wait()
        # What the process had started (a router's workers) must not go on without it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._ended.set()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def descendants(self) -> list[int]:
        """What the process has started in its group and still runs. (Only Linux can tell; elsewhere none.)"""
        if sys.platform != "linux":
            return []
        return [
            pid
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and (pid := int(entry.name)) != self.pid and _group_of(pid) == self.pid
        ]

    @property
    def exit_code(self) -> int | None:
        """As subprocess has it (negative: the signal that ended it); None while running."""
        return self._popen.returncode if self._ended.is_set() else None

    @property
    def ending(self) -> str:
        """How the process ended, for messages: a signal's name or an exit code."""
        code = self.exit_code
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the process has ended; False if it still runs after ``timeout`` seconds."""
        return self._ended.wait(timeout)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it still runs."""
        self._popen.send_signal(number)

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Sends each signal and waits so many seconds for the end; then SIGKILL to the whole group."""
        for number, seconds in steps:
            self.send(number)
            self.send(signal.SIGCONT)  # a frozen process would keep the signal for later
            if self.wait(seconds):
                return
        self.kill()

    def kill(self) -> None:
        """Ends the whole group at once and waits until the process is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def output(self, limit: int = 2000) -> str:
        """The last characters of what this process has written to its log."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - limit))
            return file.read().decode(errors="replace").strip()

    def until(
        self,
        ready: Callable[[], bool],
        *,
        what: str,
        timeout: float,
        cancel: threading.Event | None = None,
    ) -> None:
        """Waits until ``ready()``. Raises DevError if the process ends before or ``timeout`` seconds pass."""
        deadline = time.monotonic() + timeout
        while not ready():
            if cancel is not None and cancel.is_set():
                raise Interrupted(f"{what} was stopped while it was starting")
            if self.wait(_POLL_SECONDS):
                raise DevError(f"{what} ended at its start ({self.ending}){self.last_words()}")
            if time.monotonic() > deadline:
                raise DevError(f"{what} was not ready after {timeout:.0f} s{self.last_words()}")

    def last_words(self) -> str:
        """For a message about its end: the last line it wrote and where its log is; nothing if a signal ended it."""
        if self.exit_code is not None and self.exit_code < 0:
            return ""
        lines = self.output().splitlines()
        return f": {lines[-1].strip()} (see {self.log})" if lines else f" (see {self.log})"


def run(
    arguments: Sequence[str],
    *,
    held: Path | None = None,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    cancel: threading.Event | None = None,
) -> tuple[int, str]:
    """Runs a program to its end; its exit code and output. Raises Interrupted when ``cancel`` is set meanwhile."""
    process = _popen(
        arguments,
        held=held,
        account=account,
        death_signal=signal.SIGKILL,
        environment=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
    )
    while True:
        try:
            output, _ = process.communicate(timeout=0.1 if cancel is not None else None)
        except subprocess.TimeoutExpired:
            if cancel is not None and cancel.is_set():
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise Interrupted(f"{Path(arguments[0]).name} was stopped") from None
        else:
            return process.returncode, output.decode(errors="replace").strip()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _rotate(log: Path) -> int:
    """Sets a log aside that has grown large; the size of the one to append to."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return 0
    if size < _LOG_BYTES:
        return size
    log.replace(log.with_suffix(".old.log"))
    return 0
