"""What an exit code of ``likering`` means, for scripts that call it."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

import typer


class ExitCode(IntEnum):
    """2 is typer's, for arguments that make no sense."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    REFUSED = 4
    TIMED_OUT = 5


def fail(message: str, code: ExitCode) -> NoReturn:
    """End the command with a sentence on stderr."""
    typer.echo(f"likering: {message}", err=True)
    raise typer.Exit(code)


def nothing_to_do(message: str) -> NoReturn:
    """End the command because everything is as it would be made."""
    typer.echo(message, err=True)
    raise typer.Exit(ExitCode.NOTHING_TO_DO)
