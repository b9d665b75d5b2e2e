"""Programs that not every machine has: the tests that need them are skipped where they are missing, but not on CI."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*programs: str, packages: str) -> None:
    """Goes on only where all are installed. ``packages``: what they come in on Debian."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed (on Debian: apt-get install {packages})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
