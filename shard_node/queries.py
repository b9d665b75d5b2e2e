"""The named statements of queries.sql, and their forms.

Postgres prepares every partition that a statement may read for reading, each time; told which slots, it prepares those.
With 64 partitions that is half the time of a small batch. So a form of a statement lists up to 0, 4 or 16 slots at its
lines "AND few slots", and at its lines "AND few unknown" the slots of posts whose numbers are not known.

A statement with the line "AND purges" is two: NAME without it, and NAME_and_purges with the part "purges" in its place.
Any other part stands in the place of each line "-- with: PART".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final, LiteralString

LISTED: Final = (0, 4, 16)
"""How many slots a form lists."""
FEW_SLOTS: Final = LISTED[1]

_SLOTS: Final = re.compile(r"^ *AND few slots\n", re.MULTILINE)
_UNKNOWN: Final = re.compile(r"^ *AND few unknown\n", re.MULTILINE)
_PURGES: Final = re.compile(r"^ *AND purges\n", re.MULTILINE)
_PART: Final = re.compile(r"^-- with: (\w+)(,?)$", re.MULTILINE)


def _load() -> Mapping[str, LiteralString]:
    text = files("shard_node").joinpath("queries.sql").read_text("utf-8")
    pieces = re.split(r"^-- (name|part): (\w+)$", text, flags=re.MULTILINE)
    # The file is part of the package, so its text is as literal as this module's.
    found: dict[str, LiteralString] = {}
    parts: dict[str, LiteralString] = {}
    for kind, name, sql in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        (found if kind == "name" else parts)[name] = sql.strip()
    purges = parts["purges"].partition("\n")[2] + "\n"
    texts: dict[str, LiteralString] = {}
    for name, sql in found.items():
        whole = sql
        while _PART.search(whole):  # a part may have parts
            whole = _PART.sub(lambda part: parts[part[1]] + part[2], whole)
        texts[name] = _PURGES.sub("", whole)
        if texts[name] != whole:
            texts[f"{name}_and_purges"] = _PURGES.sub(lambda _: purges, whole)
    return texts


_TEXTS: Final = _load()


@lru_cache(maxsize=1024)
def query(name: str, *, slots: int | None = None, unknown: int | None = None) -> LiteralString:
    """The form of a statement that lists so many slots, and so many in which posts are unknown; None: it lists none.

    They are the parameters ``slot_0``, ``slot_1``, … and ``unknown_0``, … .
    """
    return _UNKNOWN.sub(_list("unknown", unknown), _SLOTS.sub(_list("slot", slots), _TEXTS[name]))


def _list(name: str, size: int | None) -> LiteralString:
    if size is None:
        return ""
    listed = ", ".join(f"%({name}_{n})s::smallint" for n in range(size))
    return f"      AND slot IN ({listed})\n" if size else "      AND false\n"


QUERIES: Final[Mapping[str, LiteralString]] = {name: query(name) for name in _TEXTS}
"""The statements in the form that lists no slots."""
