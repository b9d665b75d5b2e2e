"""Reads likes from CSV, packed with gzip or not. A bad line costs itself and no other.

The file has a header with the names of its columns. A quote that is not closed would swallow the lines behind it: the
line where it stands is rejected, and reading goes on with the next one.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

from likering.cli.transfer.blocks import BEGINNING, BLOCK_ROWS, Block, Columns, Position, Reject, Unreadable

MAX_LINE: Final = 1 << 20
"""Bytes; what is longer is rejected. So is a field of more than 128 KiB, by the csv module."""
_GZIP: Final = b"\x1f\x8b"


class _Lines:
    """Lines of a file as text; bytes that are no UTF-8 are kept as surrogates, which no id may have."""

    def __init__(self, file: BinaryIO, start: Position) -> None:
        self._file = file
        self._back: list[tuple[bytes, int]] = []
        self._taken: list[tuple[bytes, int]] = []
        """Lines, and how many bytes of each were passed over because it is too long."""
        self.offset = start.offset
        self.line = start.line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, rest = self._back.pop() if self._back else self._read()
        if not line:
            raise StopIteration
        self.offset += len(line) + rest
        self.line += 1
        self._taken.append((line, rest))
        if rest:
            raise csv.Error(f"a line of more than {MAX_LINE} bytes")
        return line.decode("utf-8", "surrogateescape")

    def _read(self) -> tuple[bytes, int]:
        line, rest = self._file.readline(MAX_LINE), 0
        more = line if len(line) == MAX_LINE else b""
        while more and more[-1:] != b"\n":
            more = self._file.readline(MAX_LINE)
            rest += len(more)
        return line, rest

    def begin(self) -> None:
        """A record begins here."""
        self._taken.clear()

    @property
    def record(self) -> str:
        """The first line of the record."""
        return self._taken[0][0].decode("utf-8", "surrogateescape").rstrip("\r\n") if self._taken else ""

    def give_back(self) -> None:
        """Has all lines of the record but its first read again."""
        for line, rest in reversed(self._taken[1:]):
            self._back.append((line, rest))
            self.offset -= len(line) + rest
            self.line -= 1


class CsvLikes:
    """A CSV file of likes."""

    def __init__(
        self,
        path: Path,
        columns: Columns,
        time_of: Callable[[str], int],
        *,
        delimiter: str = ",",
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        """``time_of`` reads a time, see ``times.parser``. Raises OSError."""
        self._columns = columns
        self._time_of = time_of
        self._delimiter = delimiter
        self._block_rows = block_rows
        self._raw = path.open("rb")
        packed = self._raw.peek(2)[:2] == _GZIP
        self._file = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw) if packed else self._raw)
        self.size = path.stat().st_size

    def __repr__(self) -> str:
        return f"<CsvLikes {self._raw.name!r}>"

    @property
    def taken(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        try:
            yield from self._blocks(start)
        except (EOFError, zlib.error, OSError) as error:
            raise Unreadable(f"the file cannot be read on: {error}") from error

    def _blocks(self, start: Position | None) -> Iterator[Block]:
        lines = _Lines(self._file, BEGINNING)
        places, width = self._header(lines)
        if start is not None:
            self._file.seek(start.offset)
            lines = _Lines(self._file, start)
        ended = False
        while not ended:
            block = Block()
            ended = self._fill(block, lines, places, width)
            block.end = Position(lines.offset, lines.line)
            block.reject_faults()
            yield block

    def _header(self, lines: _Lines) -> tuple[tuple[int, int, int | None], int]:
        try:
            header = next(csv.reader(lines, delimiter=self._delimiter, strict=True), [])
        except csv.Error as error:
            raise Unreadable(f"the header cannot be read: {error}") from error
        if header:
            header[0] = header[0].removeprefix("\ufeff")
        return _places(header, self._columns), len(header)

    def _fill(self, block: Block, lines: _Lines, places: tuple[int, int, int | None], width: int) -> bool:
        """Reads so many records. Whether the file has ended."""
        user, post, time = places
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        time_of, add = self._time_of, block.add
        for _ in range(self._block_rows):
            lines.begin()
            line = lines.line + 1
            try:
                record = next(reader)
            except StopIteration:
                return True
            except csv.Error as error:
                block.rejects.append(Reject(line, f"no CSV: {error}", lines.record))
                lines.give_back()
                reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
                continue
            if len(record) != width:
                if record:
                    reason = f"{len(record)} fields where the header has {width}"
                    block.rejects.append(Reject(line, reason, self._text(record)))
                continue
            try:
                like_time = time_of(record[time]) if time is not None else 0
            except ValueError as error:
                block.rejects.append(Reject(line, str(error), self._text(record)))
                continue
            add(line, record[user], record[post], like_time)
        return False

    def _text(self, record: Sequence[str]) -> str:
        return self._delimiter.join(record)


def _places(header: Sequence[str], columns: Columns) -> tuple[int, int, int | None]:
    """Where the columns are; a file need not have times."""
    for name in (columns.user, columns.post):
        if name not in header:
            raise Unreadable(
                f"the file has no column {name!r}, only {', '.join(map(repr, header)) or 'nothing'}"
            )
    time = header.index(columns.time) if columns.time in header else None
    return header.index(columns.user), header.index(columns.post), time
