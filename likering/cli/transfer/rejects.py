"""The file of rejected lines: CSV with line, reason and what stood there. There is none as long as none is rejected."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from likering.cli.transfer.blocks import Reject


class Rejects:
    """Grows; ``size`` bytes of it are on disk for good."""

    def __init__(self, path: Path, size: int) -> None:
        """Keeps the first ``size`` bytes of what is there. Raises OSError."""
        self._path = path
        self._file: BinaryIO | None = None
        self.size = size
        if size:
            self._file = path.open("r+b")
            self._file.truncate(size)
            self._file.seek(size)
        else:
            path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<Rejects {str(self._path)!r}, {self.size} bytes>"

    def add(self, rejects: Iterable[Reject]) -> None:
        """Writes them, to the disk."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if self._file is None:
            self._file = self._path.open("wb")
            writer.writerow(Reject._fields)
        writer.writerows(rejects)
        # Bytes that were no UTF-8 are written as they were read; an unpaired surrogate of another kind cannot be.
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.size = self._file.tell()

    def close(self) -> None:
        """Ends writing."""
        if self._file is not None:
            self._file.close()
