"""How much CPU groups of processes take, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")

Roots = Callable[[], Iterable[int]]
"""Gives the processes of a group that are to be counted, with all that they started."""


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the program's name, which may itself have spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def _children() -> tuple[dict[int, list[str]], dict[int, list[int]]]:
    stats: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            stats[int(entry.name)] = stat
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    return stats, children


def cpu_seconds(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """User and system time of these processes and of everything that they ever started, in seconds since their start.

    A child that has ended counts through its parent, which has waited for it.
    """
    stats, children = _children()
    seconds = {}
    for name, roots in groups.items():
        ticks = 0
        waiting = list(roots)
        seen: set[int] = set()
        while waiting:
            pid = waiting.pop()
            stat = stats.get(pid)
            if stat is None or pid in seen:
                continue
            seen.add(pid)
            ticks += sum(int(field) for field in stat[11:15])  # utime, stime, cutime, cstime
            waiting += children.get(pid, [])
        seconds[name] = ticks * _TICK
    return seconds


def machine_seconds() -> float:
    """CPU seconds that the whole machine has been busy since its start, or kept from us by its host."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * _TICK


class Meter:
    """Measures groups of processes between ``begin`` and ``end``.

    Besides the given ones: ``client``, this very process, and ``others``, everything else on the machine.
    """

    def __init__(self, groups: Mapping[str, Roots]) -> None:
        self._groups = groups
        self._before: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        """CPU seconds of each group between the two, after ``end``."""

    def _now(self) -> dict[str, float]:
        now = cpu_seconds({name: roots() for name, roots in self._groups.items()})
        now["client"] = time.process_time()
        now["others"] = machine_seconds() - sum(now.values())
        return now

    def begin(self) -> None:
        """The measured time begins."""
        self._before = self._now()

    def end(self) -> None:
        """The measured time is over."""
        self.seconds = {name: after - self._before[name] for name, after in self._now().items()}
