"""Programs that not every machine has: the tests that need them are skipped where they are missing, but not on CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str, packages: str) -> None:
    """Goes on only where all are installed. ``packages``: what they come in on Debian."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        lacks(" and ".join(missing) + (" is" if len(missing) == 1 else " are"), packages)


def lacks(what: str, packages: str) -> NoReturn:
    """Ends a test that cannot go on without it."""
    reason = f"{what} not installed (on Debian: apt-get install {packages})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
