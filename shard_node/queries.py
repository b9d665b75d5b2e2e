"""The named statements of queries.sql."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString, cast


def _load() -> dict[str, LiteralString]:
    text = files("shard_node").joinpath("queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    names, statements = parts[1::2], parts[2::2]
    # The file is part of the package, so its text is as literal as this module's.
    return {name: cast("LiteralString", sql.strip()) for name, sql in zip(names, statements, strict=True)}


QUERIES = _load()
