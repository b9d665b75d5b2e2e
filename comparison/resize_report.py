"""The figures of resizes as a table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MARK = "<!-- resizes: written by scripts/compare render-resize -->"

Figures = Mapping[str, Mapping[str, Any]]
_LOAD = "under load"


def _at_most(goal: float) -> Callable[[float], bool]:
    return lambda value: value <= goal


def _at_least(goal: float) -> Callable[[float], bool]:
    return lambda value: value >= goal


_ROWS: tuple[tuple[str, str, str, str, str, Callable[[float], bool]], ...] = (
    ("calls that failed", "0", _LOAD, "failed", ",.0f", _at_most(0)),
    ("pause of a slot's writes, p50, ms", "≤ 15", _LOAD, "pause p50 ms", ".1f", _at_most(15)),
    ("pause, p99, ms", "≤ 60", _LOAD, "pause p99 ms", ".1f", _at_most(60)),
    ("longest pause, ms", "≤ 100", _LOAD, "pause max ms", ".1f", _at_most(100)),
    ("callers' p99 during the resizes ÷ before", "≤ 2.0", _LOAD, "p99 during ÷ before", ".2f", _at_most(2)),
    ("slots moved ÷ the fewest possible", "≤ 1.02", _LOAD, "slots moved ÷ minimum", ".3f", _at_most(1.02)),
    ("each node at floor or ceiling of its share", "1", _LOAD, "balanced", ".0f", _at_least(1)),
    ("rows/s moved ÷ a binary COPY, piped", "≥ 0.7", "copy rate", "moved ÷ piped", ".2f", _at_least(0.7)),
    ("32 empty slots, s", "≤ 15", "empty slots", "seconds", ".1f", _at_most(15)),
    (
        "hottest slot under all the likes that the node can write, s",
        "ends",
        "hottest slot",
        "seconds",
        ".0f",
        _at_least(0),
    ),
    ("plan for 4096 slots on 200 nodes, s", "≤ 1", "planning", "seconds", ".3f", _at_most(1)),
)


def resize_markdown(figures: Figures) -> str:
    """The table, and what stands behind its first lines."""
    lines = ["| figure | to reach | measured |", "| :-- | --: | --: |"]
    for what, goal, part, name, form, reached in _ROWS:
        value = float(figures[part][name])
        lines.append(f"| {what} | {goal} | {value:{form}} {'reached' if reached(value) else 'missed'} |")
    load = figures[_LOAD]
    steps = ", ".join(
        f"{step} {ms:.1f}" for step, ms in sorted(load["pause by step, p50 ms"].items(), key=_ms)
    )
    lines += [
        "",
        f"{load['slots moved']:,} slots moved in {load['seconds']:.0f} s,"
        f" aborted freezes: {load['aborted freezes']};"
        f" {load['calls']:,} calls made meanwhile at {load['rate calls/s']:,.0f}/s"
        f" (of {load['capacity calls/s']:,.0f} possible);"
        f" {load['likes']:,} likes were looked for in the databases afterwards:"
        f" {'all there, counts exact' if not load['problem'] else load['problem']}."
        f" Callers' p50 and p99: {load['p50 before ms']:.0f} and {load['p99 before ms']:.0f} ms before,"
        f" {load['p50 during ms']:.0f} and {load['p99 during ms']:.0f} ms during.",
        f"Of a pause, p50, ms from the source's freeze until: {steps}.",
        "",
    ]
    return "\n".join(lines)


def _ms(step: tuple[str, float]) -> float:
    return step[1]
