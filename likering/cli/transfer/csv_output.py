"""Writes likes as CSV, packed with gzip or not, so that it can be cut off where a page ended and be gone on with."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path

from likering.cli.transfer.blocks import Columns
from likering.cli.transfer.times import text_of


class _MinimalDialect(csv.unix_dialect):
    quoting = csv.QUOTE_MINIMAL


class CsvOutput:
    """Each page is packed for itself: files of several such members are as good as any to all that reads gzip."""

    def __init__(self, path: Path, columns: Columns, *, packed: bool, size: int = 0) -> None:
        """Goes on behind the first ``size`` bytes of what is there; 0: begins. Raises OSError."""
        self._packed = packed
        self._file = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size
        if not size:
            self._append([columns])

    def __repr__(self) -> str:
        return f"<CsvOutput {self._file.name!r}, {self.size} bytes>"

    def write(self, user_ids: Sequence[str], post_ids: Sequence[str], like_times: Sequence[int]) -> None:
        """Adds likes."""
        if user_ids:
            self._append(list(zip(user_ids, post_ids, map(text_of, like_times), strict=True)))

    def sync(self) -> None:
        """Has ``size`` bytes on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the file, on disk."""
        self.sync()
        self._file.close()

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        # The module quotes only the line end that it writes itself, but readers take a bare CR for one too.
        bare = any("\r" in field for row in rows for field in row[:2])
        dialect = csv.unix_dialect if bare else _MinimalDialect
        csv.writer(text, dialect).writerows(rows)
        data = text.getvalue().encode()
        self.size += self._file.write(gzip.compress(data, 6) if self._packed else data)
