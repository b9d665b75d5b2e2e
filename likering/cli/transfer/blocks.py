"""A piece of a file of likes, as the readers of all formats give it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from likering.importing import faults
from likering.validation import LAST_MICROSECOND

BLOCK_ROWS: Final = 20_000
"""Rows of a block: some are in memory at a time."""


class Unreadable(Exception):
    """The file is no file of likes. The message is for whoever named it."""


class Position(NamedTuple):
    """Where reading goes on: bytes (of what was packed) or rows before it, and lines or rows before it."""

    offset: int
    line: int


BEGINNING: Final = Position(0, 0)


class Reject(NamedTuple):
    """A line that is no like: its number from 1, why, and what stood there."""

    line: int
    reason: str
    record: str


class Columns(NamedTuple):
    """The names of a file's columns."""

    user: str = "user_id"
    post: str = "post_id"
    time: str = "liked_at"


@dataclass(slots=True)
class Block:
    """Likes in columns, with their line numbers, and lines that are none. Times in µs since 1970, 0 for none."""

    user_ids: list[str] = field(default_factory=list)
    post_ids: list[str] = field(default_factory=list)
    like_times: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    end: Position = BEGINNING

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def rows(self) -> int:
        """Likes and rejected lines."""
        return len(self.lines) + len(self.rejects)

    def add(self, line: int, user_id: str, post_id: str, like_time: int) -> None:
        """A line that may be a like."""
        self.lines.append(line)
        self.user_ids.append(user_id)
        self.post_ids.append(post_id)
        self.like_times.append(like_time)

    def reject_faults(self) -> None:
        """Rejects the likes whose ids or times cannot be. What is too far in the future the router judges."""
        found = faults(self.user_ids, self.post_ids, self.like_times, LAST_MICROSECOND)
        if not found:
            return
        for position, fault in found.items():
            record = f"{self.user_ids[position]},{self.post_ids[position]}"
            reason = f"{fault.field}: {fault.description}"
            self.rejects.append(Reject(self.lines[position], reason, record))
        kept = [position for position in range(len(self)) if position not in found]
        self.user_ids = [self.user_ids[position] for position in kept]
        self.post_ids = [self.post_ids[position] for position in kept]
        self.like_times = [self.like_times[position] for position in kept]
        self.lines = [self.lines[position] for position in kept]
        self.rejects.sort()


class LikeFile(Protocol):
    """A file of likes that is open for reading."""

    @property
    def size(self) -> int:
        """How large it is, in the unit of ``taken``."""
        ...

    @property
    def taken(self) -> int:
        """How much of it has been read."""
        ...

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        """All of it, or what is behind a position. Raises Unreadable."""
        ...

    def close(self) -> None:
        """Ends reading."""
        ...
