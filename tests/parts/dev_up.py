"""A ``likering dev up`` in a process of its own, and everything that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from likering.dev.control import ask

COMMAND = (sys.executable, "-m", "likering.cli")
PATIENCE = 60.0


class DevUp:
    """Starts the supervisor; leaving the ``with`` block stops it, whatever has become of it."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.last_words = ""
        self.said: list[str] = []
        """What a test has read of it, where it keeps that."""
        self._seen: set[psutil.Process] = set()
        self.process = subprocess.Popen(
            [*COMMAND, "dev", "up", "--data", str(data), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=PATIENCE)

    def until_said(self, text: str) -> list[str]:
        """Reads lines up to one with ``text``. An AssertionError shows what came instead."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if text in line:
                return lines
        raise AssertionError("\n".join(["the supervisor ended after:", *lines]))

    def until_serving(self) -> None:
        """Waits until the cluster serves, and remembers its processes."""
        self.until_said("likering serves on")
        self.remember_processes()

    def remember_processes(self) -> None:
        """For ``left``: everything that runs below the supervisor now."""
        self._seen.update(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; the exit code. What it said meanwhile is in ``last_words``."""
        self.process.send_signal(number)
        self.last_words, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def left(self, timeout: float) -> list[str]:
        """Which of the processes seen still run after ``timeout`` seconds."""
        assert self._seen
        _, alive = psutil.wait_procs([process for process in self._seen if _runs(process)], timeout)
        return [repr(process) for process in alive if _runs(process)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``likering dev …`` on the same data directory."""
        return run_dev(*arguments, data=self.data)

    def status(self) -> dict[str, Any]:
        """What ``likering dev status -o json`` prints."""
        answer: dict[str, Any] = ask(self.data, "status")
        return answer


def run_dev(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``likering dev …`` to its end."""
    command = [*COMMAND, "dev", *arguments, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that failed as it should."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("likering: ")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
