"""Asks before a command changes something."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from likering.cli.exit_codes import ExitCode, fail

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal.")]


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal unless ``yes``. Ends the command with REFUSED after a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} There is no terminal to ask on: say --yes", ExitCode.REFUSED)
    if not typer.confirm(question, err=True):
        fail("nothing was changed", ExitCode.REFUSED)
