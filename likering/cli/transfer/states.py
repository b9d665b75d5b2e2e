"""How far an import or an export has come, in a file that is replaced as a whole: who is killed goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

_VERSION: Final = 1
_BEGINNING: Final = 1 << 16


class StateUnusable(Exception):
    """The state is of something else. The message is for whoever wants to go on."""


@dataclass
class ImportState:
    """Everything before ``offset`` and ``line`` is in the cluster or in the rejects."""

    source: str
    """What the file was, see ``fingerprint``."""
    options: str
    """How it is read."""
    offset: int = 0
    line: int = 0
    inserted: int = 0
    existing: int = 0
    rejected: int = 0
    rejects_size: int = 0
    """Bytes of the rejects file."""


@dataclass
class ExportState:
    """Everything before ``cursor`` is in the first ``size`` bytes of the file."""

    options: str
    """What is exported, and how."""
    cursor: str = ""
    size: int = 0
    likes: int = 0


S = TypeVar("S", ImportState, ExportState)


def save(path: Path, state: ImportState | ExportState) -> None:
    """Replaces the file. What it tells of must be on disk before."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        json.dump({"version": _VERSION, **asdict(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def load(path: Path, kind: type[S]) -> S | None:
    """What was saved; None: nothing. Raises StateUnusable."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        if told.pop("version") != _VERSION:
            raise StateUnusable(f"{path} is of another version of likering")
        return kind(**told)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateUnusable(f"{path} is not the state of an import or export") from error


def fingerprint(path: Path) -> str:
    """By which a file is known again: its size and its beginning. Raises OSError."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    return f"{path.stat().st_size} bytes, {hashlib.blake2b(beginning, digest_size=16).hexdigest()}"
