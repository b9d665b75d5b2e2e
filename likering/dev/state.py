"""Small JSON files that a server directory or a cluster keeps across runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from likering.dev.errors import DevError


def load(path: Path) -> dict[str, Any]:
    """What was saved; empty when there is no such file. Raises DevError when the file is broken."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DevError(f"{path} cannot be read ({error}); remove {path.parent} to begin anew") from error
    if not isinstance(value, dict):
        raise DevError(f"{path} is not what likering wrote there; remove {path.parent} to begin anew")
    return value


def save(path: Path, value: dict[str, Any]) -> None:
    """Replaces the file as a whole; readable to us only, for it may hold passwords."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
