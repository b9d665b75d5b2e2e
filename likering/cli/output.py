"""How commands print their result: a table for people, or JSON for programs."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """The two ways."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("-o", "--output", help="A table for people, or all there is as JSON for programs.")
]


def print_json(value: Any, *, lines: bool = False) -> None:
    """To stdout; with ``lines``, in one line."""
    typer.echo(json.dumps(value, indent=None if lines else 2))
