"""The progress bar of imports and exports, on stderr where that is a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class TransferBar:
    """A context manager. Shows how much is done, likes a second since the start, and how long it will still take."""

    def __init__(self, what: str) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[likes]:,} likes, {task.fields[rate]:,}/s,"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(what, total=None, likes=0, rate=0)
        self._before = 0

    def __enter__(self) -> TransferBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int, likes: int) -> None:
        """``done`` of ``total``, in whatever unit; ``likes`` since the start of the command."""
        elapsed = self._progress.tasks[0].elapsed or 0.0
        rate = round(likes / elapsed) if elapsed > 0 else 0
        self._progress.update(self._task, completed=done, total=total, likes=likes, rate=rate)

    def say(self, message: str) -> None:
        """A line above the bar."""
        self._console.print(message, markup=False, highlight=False)
