"""What the parts of a cluster complained of, for whoever reads that a test has failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

_LEVELS = frozenset({"warning", "error", "critical"})
_SEVERITIES = (" WARNING: ", " ERROR: ", " FATAL: ", " PANIC: ")


def complaints(logs: Path, since: datetime, most: int = 40) -> list[str]:
    """The last warnings and errors in the logs of a directory since then, by time."""
    found = [
        (at, f"{at:%H:%M:%S.%f} {path.stem}: {line}") for path in logs.glob("*.log") for at, line in _of(path)
    ]
    return [line for at, line in sorted(found) if at >= since][-most:]


def _of(path: Path) -> Iterator[tuple[datetime, str]]:
    for line in path.read_text("utf-8", "replace").splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.pop("level", None) in _LEVELS:
                at = datetime.fromisoformat(entry.pop("timestamp"))
                yield at, " ".join(f"{key}={value}" for key, value in entry.items() if key != "service")
        elif any(severity in line for severity in _SEVERITIES):
            # 2026-01-31 12:00:00.000 UTC [1234] ERROR:  ...
            day, time, _, rest = line.split(" ", 3)
            yield datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC), rest
