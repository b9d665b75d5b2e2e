"""Likes in CSV files: bad lines cost themselves only, and reading goes on anywhere."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.cli.transfer.blocks import Block, Columns, Position, Reject, Unreadable
from likering.cli.transfer.csv_input import MAX_LINE, CsvLikes
from likering.cli.transfer.csv_output import CsvOutput
from likering.cli.transfer.times import TimeUnit, parser
from likering.validation import valid_id

Like = tuple[str, str, int]


def blocks_of(
    path: Path, start: Position | None = None, *, rows: int = 16_000, delimiter: str = ","
) -> list[Block]:
    file = CsvLikes(path, Columns(), parser(TimeUnit.SECONDS), delimiter=delimiter, block_rows=rows)
    with closing(file):
        return list(file.blocks(start))


def likes_in(blocks: Iterable[Block]) -> list[Like]:
    return [
        like
        for block in blocks
        for like in zip(block.user_ids, block.post_ids, block.like_times, strict=True)
    ]


def rejects_in(blocks: Iterable[Block]) -> list[Reject]:
    return [reject for block in blocks for reject in block.rejects]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "likes.csv"


ids = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
).filter(valid_id)
likes = st.lists(st.tuples(ids, ids, st.integers(1, 2**50)), max_size=30)


@given(likes, st.integers(1, 9), st.booleans(), st.integers(1, 5))
def test_what_is_written_is_read_again(given: list[Like], rows: int, packed: bool, page: int) -> None:
    """Ids with commas, quotes and line ends too; and from the end of any block on it is the rest."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "likes"
        output = CsvOutput(path, Columns(), packed=packed)
        for start in range(0, len(given), page):
            users, posts, times = zip(*given[start : start + page], strict=True)
            output.write(users, posts, times)
        output.close()
        blocks = blocks_of(path, rows=rows)
        assert rejects_in(blocks) == []
        assert likes_in(blocks) == given
        for number, block in enumerate(blocks, 1):
            assert likes_in(blocks_of(path, block.end, rows=rows)) == likes_in(blocks[number:])


good = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda pair: b"u%d,p%d,17" % pair)
bad = st.sampled_from(
    [b"u,p", b"u,p,1,2", b",p,1", b"u,,1", b"u,p,never", b"u,p,-1", b"\xff,p,1", b"u,p\0,1", b'"u,p,1', b'u","p,1',
     b'"u"x,p,1', b"u" * 129 + b",p,1"]
)  # fmt: skip


@given(st.lists(st.one_of(good, bad), max_size=25), st.integers(1, 7))
def test_bad_lines_cost_themselves_only(lines: list[bytes], rows: int) -> None:
    """Every good line is a like, every other one is rejected with its number; from any block on, the rest alike."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "likes"
        path.write_bytes(b"\n".join([b"user_id,post_id,liked_at", *lines]) + b"\n")
        blocks = blocks_of(path, rows=rows)
        expected = [line.decode().split(",") for line in lines if line.endswith(b",17")]
        assert likes_in(blocks) == [(user, post, 17_000_000) for user, post, _ in expected]
        numbers = [number for number, line in enumerate(lines, 2) if not line.endswith(b",17")]
        assert [reject.line for reject in rejects_in(blocks)] == numbers
        for number, block in enumerate(blocks, 1):
            rest = blocks_of(path, block.end, rows=rows)
            assert likes_in(rest) == likes_in(blocks[number:])
            assert rejects_in(rest) == rejects_in(blocks[number:])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u,p", "2 fields where the header has 3"),
        (",p,1", "user_id: an id has at least one byte"),
        ("u," + "p" * 129 + ",1", "post_id: an id has at most 128 bytes of UTF-8, this one has 129"),
        ("u,p,yesterday", "'yesterday' is no time as 2026-11-23T17:05:29Z"),
        ("u,p,1969-12-31", "the time of a like is after 1970"),
        ('"u,p,1', "no CSV: unexpected end of data"),
    ],
)
def test_a_reject_says_why(path: Path, line: str, reason: str) -> None:
    path.write_text(f"user_id,post_id,liked_at\na,b,1\n{line}\nc,d,\n")
    blocks = blocks_of(path)
    assert [(reject.line, reject.reason) for reject in rejects_in(blocks)] == [(3, reason)]
    assert likes_in(blocks) == [("a", "b", 1_000_000), ("c", "d", 0)]


def test_columns_are_found_by_name_and_others_are_left_out(path: Path) -> None:
    path.write_text("\ufeffid;liked_at;post_id;user_id\n7;2020-01-01T00:00:00+01:00;p;u\n", "utf-8")
    assert likes_in(blocks_of(path, delimiter=";")) == [("u", "p", 1_577_833_200_000_000)]


def test_a_file_need_not_have_times(path: Path) -> None:
    path.write_text("user_id,post_id\nu,p")
    assert likes_in(blocks_of(path)) == [("u", "p", 0)]


@pytest.mark.parametrize("content", ["", "\n", "user,post\n", '"user_id\n'])
def test_a_file_without_the_columns_is_none_of_likes(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(Unreadable):
        blocks_of(path)


def test_a_line_without_end_is_skipped_in_bounded_memory(path: Path) -> None:
    path.write_bytes(b"user_id,post_id\n" + b"x" * (3 * MAX_LINE) + b"\nu,p\n")
    (block,) = blocks_of(path)
    assert likes_in([block]) == [("u", "p", 0)]
    assert [reject.line for reject in block.rejects] == [2]
    assert block.end == (path.stat().st_size, 3)


def test_a_packed_file_that_is_cut_off_is_unreadable_where_it_ends(path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("user_id", "post_id"), *((f"u{n * 7919}", f"p{n}") for n in range(9000))])
    packed = gzip.compress(text.getvalue().encode())
    path.write_bytes(packed[: len(packed) // 2])
    file = CsvLikes(path, Columns(), parser(None), block_rows=100)
    with closing(file):
        blocks = file.blocks()
        assert likes_in([next(blocks)])[0] == ("u0", "p0", 0)
        with pytest.raises(Unreadable):
            list(blocks)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("", 0),
        ("2026-11-23T17:05:29.123456Z", 1_795_453_529_123_456),
        ("2026-11-23 17:05:29+00", 1_795_453_529_000_000),
        ("2026-11-23 17:05:29", 1_795_453_529_000_000),
        ("1795453529", 1_795_453_529_000_000),
        ("1795453529.5", 1_795_453_529_500_000),
    ],
)
def test_times(text: str, micros: int) -> None:
    assert parser(TimeUnit.SECONDS)(text) == micros


@pytest.mark.parametrize("text", ["1795453529", "20261123", "1.5"])
def test_nothing_is_guessed_of_a_number(text: str) -> None:
    with pytest.raises(ValueError, match="say --time-unit"):
        parser(None)(text)
    assert parser(TimeUnit.MILLISECONDS)(text) == int(float(text) * 1000)


def test_a_long_line_that_is_read_again_is_skipped_once(path: Path) -> None:
    """The line before it has a quote that is never closed, so the long one is first taken for a part of it."""
    path.write_bytes(
        b'user_id,post_id\n"open,p1\n' + b"x" * (MAX_LINE + 10) + b"\ngood,p3\nlast,p4\n",
    )
    with closing(CsvLikes(path, Columns(), parser(None))) as file:
        blocks = list(file.blocks())
    assert [
        (line, user) for block in blocks for line, user in zip(block.lines, block.user_ids, strict=True)
    ] == [(4, "good"), (5, "last")]
    assert blocks[-1].end.offset == path.stat().st_size
