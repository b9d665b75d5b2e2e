"""Likes in Parquet files, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from likering.cli.transfer.blocks import Block, Columns, Position, Unreadable
from likering.cli.transfer.parquet_files import GROUP_ROWS, ParquetLikes, ParquetOutput
from likering.cli.transfer.times import TimeUnit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "likes.parquet"


def write(path: Path, group: int = 1000, **columns: Any) -> None:
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=group)


def blocks_of(
    path: Path, start: Position | None = None, *, unit: TimeUnit | None = None, rows: int = 16_000
) -> list[Block]:
    file = ParquetLikes(path, Columns(), unit, block_rows=rows)
    with closing(file):
        return list(file.blocks(start))


def likes_in(blocks: Iterable[Block]) -> list[tuple[str, str, int]]:
    return [
        like
        for block in blocks
        for like in zip(block.user_ids, block.post_ids, block.like_times, strict=True)
    ]


def test_what_is_written_is_read_again(path: Path) -> None:
    """Over several row groups, in pages of any size."""
    likes = [(f"u{n}", f"p,{n % 7}\n", 1_400_000_000_000_000 + n) for n in range(GROUP_ROWS + 5)]
    output = ParquetOutput(path, Columns())
    for start in range(0, len(likes), 5000):
        users, posts, times = zip(*likes[start : start + 5000], strict=True)
        output.write(users, posts, times)
    output.close()
    assert likes_in(blocks_of(path)) == likes


@pytest.mark.parametrize(("rows", "group"), [(1, 4), (3, 4), (4, 3), (100, 5)])
def test_reading_goes_on_behind_any_block(path: Path, rows: int, group: int) -> None:
    write(path, group, user_id=[f"u{n}" for n in range(13)], post_id=["p"] * 13)
    blocks = blocks_of(path, rows=rows)
    assert [user for user, _, _ in likes_in(blocks)] == [f"u{n}" for n in range(13)]
    assert [line for block in blocks for line in block.lines] == list(range(1, 14))
    for number, block in enumerate(blocks, 1):
        rest = blocks_of(path, block.end, rows=rows)
        assert likes_in(rest) == likes_in(blocks[number:])
        assert [block.end for block in rest][-1:] == [Position(13, 13)][: len(rest)]


def test_ids_may_be_numbers_and_times_of_any_precision(path: Path) -> None:
    times = [datetime(2020, 1, 1, tzinfo=UTC), None]
    for kind in (pa.timestamp("s"), pa.timestamp("ns", "Europe/Paris"), pa.timestamp("us", "UTC")):
        write(path, user_id=[2**62, 2], post_id=[7, 8], liked_at=pa.array(times, kind))
        expected = [(str(2**62), "7", 1_577_836_800_000_000), ("2", "8", 0)]
        assert likes_in(blocks_of(path)) == expected


def test_times_that_are_numbers_need_a_unit(path: Path) -> None:
    write(path, user_id=["u"], post_id=["p"], liked_at=[1_577_836_800_000])
    with pytest.raises(Unreadable, match="say --time-unit"):
        blocks_of(path)
    assert likes_in(blocks_of(path, unit=TimeUnit.MILLISECONDS)) == [("u", "p", 1_577_836_800_000_000)]


def test_bad_rows_cost_themselves_only(path: Path) -> None:
    write(
        path,
        user_id=["a", None, "", "c", "d" * 129, "e"],
        post_id=["p"] * 6,
        liked_at=pa.array([1, 1, 1, -5, 1, 1], pa.timestamp("s")),
    )
    (block,) = blocks_of(path)
    assert [user for user, _, _ in likes_in([block])] == ["a", "e"]
    assert [reject.line for reject in block.rejects] == [2, 3, 4, 5]
    assert block.lines == [1, 6]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_may_be_text_of_any_kind(path: Path, kind: Any) -> None:
    write(path, user_id=pa.array(["ü", None, "b"]).cast(kind), post_id=["p"] * 3)
    (block,) = blocks_of(path)
    assert [user for user, _, _ in likes_in([block])] == ["ü", "b"]
    assert [reject.line for reject in block.rejects] == [2]


def test_bytes_that_are_no_text_cost_their_row_only(path: Path) -> None:
    for kind in (pa.binary(), pa.string()):
        users = pa.array([b"a", b"\xff", b"c"], pa.binary())
        # Files of strings need not keep to it, and pyarrow does not look.
        users = pa.Array.from_buffers(kind, len(users), users.buffers())
        write(path, user_id=users, post_id=["p"] * 3)
        (block,) = blocks_of(path)
        assert [user for user, _, _ in likes_in([block])] == ["a", "c"]
        assert [reject.line for reject in block.rejects] == [2]


@pytest.mark.parametrize("users", [[1.5e17, None], [True, False], [["a"], ["b"]]])
def test_ids_that_are_rounded_or_no_ids_are_refused(path: Path, users: list[Any]) -> None:
    """Integers with nulls among them often come as floating point: ids of 19 digits are others then."""
    write(path, user_id=users, post_id=["p"] * 2)
    with pytest.raises(Unreadable, match="not strings or integers"):
        blocks_of(path)
    write(path, user_id=["u"] * 2, post_id=users)
    with pytest.raises(Unreadable, match="the ids in 'post_id'"):
        blocks_of(path)


def test_what_is_no_parquet_file_of_likes_is_unreadable(path: Path) -> None:
    path.write_text("user_id,post_id\n")
    with pytest.raises(Unreadable, match="no Parquet file"):
        blocks_of(path)
    write(path, user=["u"])
    with pytest.raises(Unreadable, match="no column 'user_id'"):
        blocks_of(path)
