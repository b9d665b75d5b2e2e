"""The comparison's figures, verdicts and tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from comparison.check import Found
from comparison.figures import FIGURES, Sample, measured, others_share, typical
from comparison.report import (
    BEGIN,
    END,
    figures_table,
    markdown,
    sample_from_json,
    sample_to_json,
    sides_table,
    write_into,
)
from likering.bench.cpu import Meter, cpu_seconds
from likering.bench.results import Written


def sample(rate: float, **cpu_us: float) -> Sample:
    """A second of so many operations, with so many µs of CPU each."""
    return Sample(int(rate), 1.0, {group: us * rate / 1e6 for group, us in cpu_us.items()})


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians: each round's two sides were measured close to each other."""
    samples = {
        "like": [sample(800), sample(100), sample(900)],
        "echo-like": [sample(1000), sample(200), sample(1000)],
    }
    (rate,) = measured(samples)
    assert rate.rounds == (0.8, 0.5, 0.9)
    assert rate.value == 0.8
    assert rate.verdict == "aim reached"


def test_cpu_is_compared_per_operation() -> None:
    """Router and node together against the echo, and the other groups left out."""
    samples = {
        "like": [sample(1000, router=300, nodes=60, postgres=500, client=100)],
        "echo-like": [sample(2000, server=240, client=100)],
    }
    cpu = next(one for one in measured(samples) if one.figure.key == "like/echo cpu")
    assert cpu.value == pytest.approx(1.5)
    assert cpu.verdict == "reached"


@pytest.mark.parametrize(
    ("like", "verdict"), [(0.64, "missed"), (0.65, "reached"), (0.79, "reached"), (0.80, "aim reached")]
)
def test_verdicts_of_floors(like: float, verdict: str) -> None:
    """Missed, reached, or even the aim."""
    samples = {"like": [sample(like * 10_000)], "echo-like": [sample(10_000)]}
    assert measured(samples)[0].verdict == verdict


def test_verdicts_of_ceilings() -> None:
    """Lower is better for CPU."""
    verdicts = [
        next(one for one in measured(samples) if one.figure.key == "like/echo cpu").verdict
        for router in (251, 300, 301)
        if (samples := {"like": [sample(1000, router=router)], "echo-like": [sample(1000, server=200)]})
    ]
    assert verdicts == ["reached", "reached", "missed"]


def test_a_figure_without_a_goal_has_no_verdict() -> None:
    """It is only told."""
    (one,) = measured({"like": [sample(10)], "redis-like": [sample(20)]})
    assert (one.goal, one.verdict) == ("", "")


def test_sides_that_were_not_measured_are_left_out() -> None:
    """Also a side that did nothing, which has no ratio."""
    assert measured({"like": [sample(10)]}) == []
    assert measured({"like": [sample(10)], "redis-like": [sample(0)]}) == []


def test_every_goal_of_the_design_is_among_the_figures() -> None:
    """The table of goals, in one place."""
    goals = {
        figure.key: figure.at_least or figure.at_most
        for figure in FIGURES
        if figure.at_least or figure.at_most
    }
    assert goals == {
        "like/echo": 0.65,
        "like/echo cpu": 1.5,
        "count/echo": 0.75,
        "mutate/direct": 0.70,
        "hot/spread": 1.2,
        "like/transactions": 2.5,
        "like-hot/transactions": 3.0,
        "mutate/transactions": 10.0,
        "async/stub": 8.0,
        "summaries/count": 20.0,
    }
    assert len({figure.key for figure in FIGURES}) == len(FIGURES)


def test_the_typical_sample_is_one_that_was_taken() -> None:
    """So that its CPU belongs to its rate."""
    assert typical([sample(3), sample(1), sample(2)]).rate == 2
    assert typical([sample(4), sample(1), sample(2), sample(3)]).rate == 2


def test_what_others_took_is_a_part_of_the_machine() -> None:
    """The median of all samples, over all processors; never below nothing."""
    samples = {
        "like": [Sample(1, 1.0, {"others": 0.2}), Sample(1, 2.0, {"others": 2.0})],
        "count": [Sample(1, 1.0, {"others": 0.6})],
    }
    assert others_share(samples, 2) == pytest.approx(0.3)
    assert others_share({"like": [Sample(1, 1.0, {"others": -0.01})]}, 2) == 0.0
    assert others_share({"like": [Sample(1, 1.0)]}, 2) == 0.0


def run_of(
    clusters: dict[str, dict[str, list[Sample]]], problems: dict[str, str] | None = None
) -> dict[str, Any]:
    """A run as scripts/compare writes it."""
    return {
        "date": "2026-01-02",
        "machine": {"cpus": 2, "cpu": "Some CPU", "python": "3.11", "grpcio": "1.75", "postgres": "18.0"},
        "settings": {"rounds": 3, "seconds": 3.0, "in_flight": 256, "processes": 1},
        "clusters": {
            nodes: {
                "sides": {side: [sample_to_json(one) for one in taken] for side, taken in sides.items()},
                "checks": {"likes": 1234, "sides": 2, "problems": problems or {}, "errors": {"like": 7}},
            }
            for nodes, sides in clusters.items()
        },
    }


def test_tables_have_a_column_per_cluster_size() -> None:
    """A figure that one size lacks is an empty cell."""
    both = {"like": [sample(800, router=1)], "echo-like": [sample(1000, server=1)]}
    run = run_of({"1": both, "3": {**both, "redis-like": [sample(400)]}})
    rows = {row[0]: row[1:] for row in figures_table(run)}
    assert rows["ratio"] == ["to reach", "1 node", "3 nodes"]
    assert rows["unary durable Like ÷ bare grpcio echo, calls/s"] == [
        "≥ 0.65 (aim 0.8)",
        "0.80 aim reached",
        "0.80 aim reached",
    ]
    assert rows["unary Like ÷ Redis sets (not durable: AOF each second)"] == ["", "", "2.00"]


def test_sides_show_cpu_by_group() -> None:
    """What a group did besides, less than a hundredth of it all, is not shown."""
    (header, row) = sides_table({"like": [sample(1000, router=300, nodes=55, postgres=9.04, direct=0.1)]})
    shown = dict(zip(header, row, strict=True))
    assert shown["operations/s"] == "1,000"
    assert (shown["router µs"], shown["nodes µs"], shown["postgres µs"], shown["direct µs"]) == (
        "300",
        "55",
        "9.0",
        "",
    )


def test_a_page_gets_the_tables_between_its_marks(tmp_path: Path) -> None:
    """Again and again, and nothing else of it changes."""
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    run = run_of(
        {"1": {"like": [sample(1)]}}, problems={"like": "1 liked edges, but 2 likes were acknowledged"}
    )
    write_into(page, markdown(run))
    once = page.read_text()
    write_into(page, markdown(run))
    assert page.read_text() == once
    assert once.startswith("# Title\n\n")
    assert once.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in once
    assert "like: 1 liked edges, but 2 likes were acknowledged" in once
    assert "Failed calls: like 7" in once


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    """With a sentence."""
    page = tmp_path / "benchmarks.md"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="has no line"):
        write_into(page, "x")


def test_samples_survive_json() -> None:
    """Ratios are computed from what the file has."""
    one = Sample(100, 2.0, {"router": 0.25}, errors=3)
    assert sample_from_json(sample_to_json(one)) == one


@pytest.mark.parametrize(
    ("found", "written", "word"),
    [
        (Found(10, 10, 10), Written(likes=10), None),
        (Found(10, 10, None), Written(likes=10), None),
        (Found(9, 9, 9), Written(likes=10), "acknowledged"),
        (Found(11, 11, 11), Written(likes=10), "acknowledged"),
        (Found(11, 11, 11), Written(likes=10, uncertain=1), None),
        (Found(10, 9, 10), Written(likes=10), "counts"),
        (Found(10, 10, 11), Written(likes=10), "versions"),
        (Found(10, 10, 10, wrong_posts=2), Written(likes=10), "2 posts"),
    ],
)
def test_what_the_databases_hold_is_judged(found: Found, written: Written, word: str | None) -> None:
    """Every acknowledged like, no other, and counts and versions that fit."""
    problem = found.problem(written)
    assert (word in problem) if word and problem else problem is word


def test_cpu_of_a_process_counts_its_children() -> None:
    """Also those that have ended, once they were waited for."""
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    script += "; print('done', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "done\n"
        assert cpu_seconds({"group": [process.pid]})["group"] >= 0.3
        process.stdin.write("\n")
    process.wait()
    assert cpu_seconds({"group": [process.pid]}) == {"group": 0.0}


def test_a_meter_measures_between_begin_and_end() -> None:
    """Groups, and the process itself as the client."""
    meter = Meter({"init": lambda: [os.getppid()]})
    meter.begin()
    sum(range(2_000_000))
    meter.end()
    assert meter.seconds.keys() == {"init", "client", "others"}
    assert meter.seconds["client"] > 0.01
