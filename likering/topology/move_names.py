"""What the objects of slots and moves are called in the nodes' databases: each tells which attempt it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_REPLICATION = re.compile(r"likering_s(\d+)_m(\d+)_a(\d+)")
_TABLE = re.compile(r"(edges|posts|user_likes)_s(\d+)(?:_m(\d+)(?:_a(\d+))?)?")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a move of a slot."""

    slot: int
    move: int
    attempt: int

    @property
    def replication(self) -> str:
        """Its publication, its replication slot (both on the source) and its subscription (on the target)."""
        return f"likering_s{self.slot}_m{self.move}_a{self.attempt}"

    def staging(self, parent: str) -> str:
        """The target's table while it is being filled."""
        return f"{parent}_s{self.slot}_m{self.move}_a{self.attempt}"


@dataclass(frozen=True, slots=True)
class TableName:
    """A slot's table: its partition (no move), a copy that a source keeps (no attempt), or one being filled."""

    parent: str
    slot: int
    move: int | None
    attempt: int | None


def partition(parent: str, slot: int) -> str:
    """A slot's partition of a partitioned table, on whichever node."""
    return f"{parent}_s{slot}"


def kept(parent: str, slot: int, move: int) -> str:
    """The copy that the source of a move keeps."""
    return f"{parent}_s{slot}_m{move}"


@lru_cache(maxsize=4096)
def parse_replication(name: str) -> Attempt | None:
    """The attempt that a publication, subscription or replication slot belongs to; None for somebody else's."""
    match = _REPLICATION.fullmatch(name)
    return Attempt(int(match[1]), int(match[2]), int(match[3])) if match else None


@lru_cache(maxsize=65536)
def parse_table(name: str) -> TableName | None:
    """What a table of a slot is; None for any other table."""
    match = _TABLE.fullmatch(name)
    if match is None:
        return None
    parent, slot, move, attempt = match.groups()
    return TableName(parent, int(slot), int(move) if move else None, int(attempt) if attempt else None)
