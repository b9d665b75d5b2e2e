"""A load's picture and its table."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from likering.bench.histogram import Histogram
from likering.bench.plot import plot
from likering.bench.report import show
from likering.bench.results import LoadResult, OpResult, Second
from likering.bench.workload import Op


@pytest.fixture
def result() -> LoadResult:
    """Two seconds of likes, some of which failed."""
    part = OpResult(
        codes=Counter({"OK": 900, "UNAVAILABLE": 3}),
        items=900,
        latency=Histogram.of([Counter({840: 890, 12_300: 10, 1_203_000: 3})]),
    )
    return LoadResult(
        seconds=2.0,
        ops={Op.LIKE: part, Op.COUNT: OpResult()},
        send_lag=Histogram.of([Counter({50: 903})]),
        timeline=[Second(calls=450, p50=840, p99=840), Second(calls=453, errors=3, p50=840, p99=12_300)],
        client_cpu_seconds=0.0903,
        messages=Counter({"UNAVAILABLE: [gone]": 3}),
    )


@pytest.mark.parametrize(("name", "start"), [("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")])
def test_a_plot_is_drawn(result: LoadResult, tmp_path: Path, name: str, start: bytes) -> None:
    """In the format of the file's name."""
    plot(result, tmp_path / name, title="likes")
    assert (tmp_path / name).read_bytes().startswith(start)


def test_other_formats_are_refused(result: LoadResult, tmp_path: Path) -> None:
    """Before anything is drawn."""
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        plot(result, tmp_path / "plot.txt", title="likes")


def test_a_load_that_answered_nothing_can_be_drawn(tmp_path: Path) -> None:
    """Empty axes are no error."""
    plot(LoadResult(seconds=1.0, ops={Op.LIKE: OpResult()}), tmp_path / "plot.svg", title="nothing")


def test_the_table_fits_a_terminal(result: LoadResult) -> None:
    """Of 80 columns; with rates, latencies in ms, codes, messages and the generator's own figures."""
    console = Console(file=StringIO(), width=80)
    show(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    for word in (
        "450",
        "0.84",
        "12.3",
        "1,203",
        "OK 900, UNAVAILABLE 3",
        "3 × UNAVAILABLE: [gone]",
        "100 µs",
    ):
        assert word in text
