"""The named statements of queries.sql.

One with the line "AND few slots" is two: NAME without that line, and NAME_of_few_slots, which lists up to FEW_SLOTS
slots there. Postgres prepares every partition that a statement may read for reading, each time; told which slots, it
prepares those. With 64 partitions that is half the time of a small batch.

One with the line "AND purges" is two as well: NAME without it, and NAME_and_purges with the part "purges" in its
place.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString

FEW_SLOTS = 4
_MARK = re.compile(r"^ *AND few slots\n", re.MULTILINE)
_PURGES = re.compile(r"^ *AND purges\n", re.MULTILINE)
_LISTED = "      AND slot IN ({})\n".format(", ".join(f"%(slot_{n})s::smallint" for n in range(FEW_SLOTS)))


def _load() -> dict[str, LiteralString]:
    text = files("shard_node").joinpath("queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    names, statements = parts[1::2], parts[2::2]
    # The file is part of the package, so its text is as literal as this module's.
    queries: dict[str, LiteralString] = {}
    found = {name: text.strip() for name, text in zip(names, statements, strict=True)}
    purges = found.pop("purges").partition("\n")[2] + "\n"
    for name in [name for name, sql in found.items() if _PURGES.search(sql)]:
        sql = found.pop(name)
        found[name] = _PURGES.sub("", sql)
        found[f"{name}_and_purges"] = _PURGES.sub(lambda _: purges, sql)
    for name, sql in found.items():
        queries[name] = _MARK.sub("", sql)
        if queries[name] != sql:
            queries[f"{name}_of_few_slots"] = _MARK.sub(_LISTED, sql)
    return queries


QUERIES = _load()
