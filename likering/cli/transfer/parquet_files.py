"""Likes in Parquet files, by pyarrow: the extra named parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from likering.cli.transfer.blocks import BLOCK_ROWS, Block, Columns, Position, Reject, Unreadable
from likering.cli.transfer.times import MICROS, TimeUnit

MISSING: Final = "Parquet needs pyarrow: pip install 'likering[parquet]'"
GROUP_ROWS: Final = 100_000
"""Rows of a row group that is written: so many are in memory."""


def _pyarrow() -> Any:
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise Unreadable(MISSING) from error
    return pyarrow


class ParquetLikes:
    """A Parquet file of likes: ids are strings or integers, times are timestamps or, with a unit, integers."""

    def __init__(
        self, path: Path, columns: Columns, unit: TimeUnit | None, *, block_rows: int = BLOCK_ROWS
    ) -> None:
        """Raises Unreadable, and OSError."""
        self._pa = _pyarrow()
        self._columns = columns
        self._block_rows = block_rows
        try:
            self._file = self._pa.parquet.ParquetFile(path)
        except self._pa.ArrowException as error:
            raise Unreadable(f"this is no Parquet file: {error}") from error
        schema = self._file.schema_arrow
        for name in (columns.user, columns.post):
            if name not in schema.names:
                raise Unreadable(
                    f"the file has no column {name!r}, only {', '.join(map(repr, schema.names))}"
                )
            self._check_ids(name, schema.field(name).type)
        self._times: Callable[[Any], Sequence[int | None]] | None = None
        if columns.time in schema.names:
            self._times = self._reader_of_times(schema.field(columns.time).type, unit)
        self.size: int = self._file.metadata.num_rows
        self.taken = 0

    def __repr__(self) -> str:
        return f"<ParquetLikes, {self.taken} of {self.size} rows>"

    def close(self) -> None:
        self._file.close()

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        try:
            yield from self._blocks(start.offset if start is not None else 0)
        except (self._pa.ArrowException, OSError) as error:
            raise Unreadable(f"the file cannot be read on: {error}") from error

    def _blocks(self, start: int) -> Iterator[Block]:
        group, row = 0, 0
        metadata = self._file.metadata
        while group < metadata.num_row_groups and row + metadata.row_group(group).num_rows <= start:
            row += metadata.row_group(group).num_rows
            group += 1
        names = [self._columns.user, self._columns.post]
        if self._times is not None:
            names.append(self._columns.time)
        groups = list(range(group, metadata.num_row_groups))
        if not groups:
            return
        for batch in self._file.iter_batches(self._block_rows, row_groups=groups, columns=names):
            piece = batch.slice(max(0, start - row)) if start > row else batch
            first = row + batch.num_rows - piece.num_rows
            row += batch.num_rows
            self.taken = row
            if piece.num_rows:
                yield self._block(piece, first, row)

    def _block(self, batch: Any, first: int, end: int) -> Block:
        user_ids, post_ids = self._ids(batch, self._columns.user), self._ids(batch, self._columns.post)
        like_times: Sequence[int | None] = [0] * batch.num_rows
        if self._times is not None:
            like_times = self._times(batch.column(self._columns.time))
        block = Block(end=Position(end, end))
        rows = zip(user_ids, post_ids, like_times, strict=True)
        for line, (user_id, post_id, like_time) in enumerate(rows, first + 1):
            if user_id is None or post_id is None:
                block.rejects.append(Reject(line, "an id is null", f"{user_id},{post_id}"))
            elif like_time is not None and like_time <= 0 and self._times is not None:
                reason = "the time of a like is after 1970"
                block.rejects.append(Reject(line, reason, f"{user_id},{post_id},{like_time}"))
            else:
                block.add(line, user_id, post_id, like_time or 0)
        block.reject_faults()
        return block

    def _check_ids(self, name: str, kind: Any) -> None:
        types = self._pa.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        # Not floating point: a tool that had nulls among integers has rounded them.
        if not (types.is_integer(kind) or any(check(kind) for check in self._texts())):
            raise Unreadable(f"the ids in {name!r} are of type {kind}, not strings or integers")

    def _texts(self) -> Sequence[Callable[[Any], bool]]:
        types = self._pa.types
        return types.is_string, types.is_large_string, types.is_binary, types.is_large_binary

    def _ids(self, batch: Any, name: str) -> Sequence[str | None]:
        """As text; bytes that are no UTF-8 are kept as surrogates, which no id may have: they cost one row each."""
        pa = self._pa
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_integer(column.type):
            return [None if value is None else str(value) for value in column.to_pylist()]
        values = pa.compute.cast(column, pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]

    def _reader_of_times(self, kind: Any, unit: TimeUnit | None) -> Callable[[Any], Sequence[int | None]]:
        pa = self._pa
        if pa.types.is_timestamp(kind):
            micros = pa.timestamp("us", tz=kind.tz)
            return lambda column: list(
                pa.compute.cast(pa.compute.cast(column, micros, safe=False), pa.int64()).to_pylist()
            )
        if not pa.types.is_integer(kind):
            raise Unreadable(f"the times are of type {kind}, not timestamps or integers")
        if unit is None:
            raise Unreadable("the times are numbers: say --time-unit")
        factor = MICROS[unit]
        return lambda column: [None if time is None else time * factor for time in column.to_pylist()]


class ParquetOutput:
    """Writes likes into a Parquet file, which is one only after ``close``."""

    def __init__(self, path: Path, columns: Columns) -> None:
        """Raises Unreadable without pyarrow, and OSError."""
        pa = self._pa = _pyarrow()
        self._schema = pa.schema(
            [
                pa.field(columns.user, pa.string(), nullable=False),
                pa.field(columns.post, pa.string(), nullable=False),
                pa.field(columns.time, pa.timestamp("us", tz="UTC"), nullable=False),
            ]
        )
        self._writer = pa.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: tuple[list[str], list[str], list[int]] = ([], [], [])

    def write(self, user_ids: Sequence[str], post_ids: Sequence[str], like_times: Sequence[int]) -> None:
        """Adds likes."""
        users, posts, times = self._waiting
        users += user_ids
        posts += post_ids
        times += like_times
        if len(self._waiting[0]) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Ends the file."""
        if self._waiting[0]:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        arrays = [
            self._pa.array(column, field.type)
            for column, field in zip(self._waiting, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.table(arrays, schema=self._schema))
        self._waiting = ([], [], [])
