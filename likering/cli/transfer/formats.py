"""Formats of files of likes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a file is."""

    CSV = "csv"
    GZIP = "csv.gz"
    PARQUET = "parquet"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="What the file is. Default: what its name says, else csv.")
]


def format_of(path: Path, wanted: Format | None) -> Format:
    """What was asked for, or what the name says. Reading, CSV is known to be packed by its beginning."""
    if wanted is not None:
        return wanted
    if path.suffix in (".parquet", ".pq"):
        return Format.PARQUET
    return Format.GZIP if path.suffix == ".gz" else Format.CSV
