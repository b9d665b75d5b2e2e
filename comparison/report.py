"""A run of the comparison as JSON, as text on a terminal, and as the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.figures import Measured, Sample, measured, others_share, typical

BEGIN = "<!-- figures: written by scripts/compare render -->"
END = "<!-- end of figures -->"

_GROUPS = ("client", "router", "nodes", "server", "direct", "postgres", "valkey")


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """One measurement."""
    return {
        "operations": sample.operations,
        "seconds": round(sample.seconds, 4),
        "cpu_seconds": {group: round(seconds, 3) for group, seconds in sample.cpu.items()},
        "errors": sample.errors,
    }


def sample_from_json(data: Mapping[str, Any]) -> Sample:
    """The opposite of ``sample_to_json``."""
    return Sample(data["operations"], data["seconds"], data["cpu_seconds"], data["errors"])


def figure_to_json(one: Measured) -> dict[str, Any]:
    """A figure with its goal and verdict; only to be read, the samples are what counts."""
    return {
        "what": one.figure.what,
        "value": round(one.value, 3),
        "rounds": [round(value, 3) for value in one.rounds],
        "goal": one.goal,
        "verdict": one.verdict,
    }


def clusters_of(run: Mapping[str, Any]) -> dict[str, dict[str, list[Sample]]]:
    """By number of nodes and side, the samples of a run."""
    return {
        nodes: {
            side: [sample_from_json(sample) for sample in samples]
            for side, samples in cluster["sides"].items()
        }
        for nodes, cluster in run["clusters"].items()
    }


def figures_table(run: Mapping[str, Any]) -> list[list[str]]:
    """Rows of: what, goal, and per cluster size the value with its verdict. The first row is the header."""
    by_nodes = {
        nodes: {one.figure.key: one for one in measured(sides)} for nodes, sides in clusters_of(run).items()
    }
    header = ["ratio", "to reach", *(_nodes(nodes) for nodes in by_nodes)]
    rows = []
    keys = list(dict.fromkeys(key for figures in by_nodes.values() for key in figures))
    for key in keys:
        some = next(figures[key] for figures in by_nodes.values() if key in figures)
        cells = [_cell(figures.get(key)) for figures in by_nodes.values()]
        rows.append([some.figure.what, some.goal, *cells])
    return [header, *rows]


def _cell(one: Measured | None) -> str:
    if one is None:
        return ""
    spread = f" ({_short(min(one.rounds))} to {_short(max(one.rounds))})" if len(one.rounds) > 1 else ""
    return f"{_short(one.value)}{spread} {one.verdict}".strip()


def _short(value: float) -> str:
    # A count(*) loses by thousands; three digits are enough there, and two decimals where the goals are close to 1.
    if value < 10:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _nodes(nodes: str) -> str:
    return f"{nodes} node" if nodes == "1" else f"{nodes} nodes"


def sides_table(sides: Mapping[str, Sequence[Sample]]) -> list[list[str]]:
    """Rows of: side, operations/s, and µs of CPU per operation of each group. The first row is the header."""
    rows = [["side", "operations/s", *(f"{group} µs" for group in _GROUPS)]]
    for side, samples in sides.items():
        sample = typical(samples)
        cpu = [_microseconds(sample, group) for group in _GROUPS]
        rows.append([side, f"{sample.rate:,.0f}", *cpu])
    return rows


def _microseconds(sample: Sample, group: str) -> str:
    # What a group does besides (heartbeats, checkpoints of an earlier side) is not this side's.
    us = sample.cpu_us(group)
    total = sum(seconds for name, seconds in sample.cpu.items() if name != "others")
    if not total or sample.cpu.get(group, 0.0) < 0.01 * total:
        return ""
    return f"{us:.0f}" if us >= 10 else f"{us:.1f}"


def markdown(run: Mapping[str, Any]) -> str:
    """The tables of a run, for docs/benchmarks.md."""
    machine, settings = run["machine"], run["settings"]
    lines = [
        f"Measured {run['date']} on {machine['cpus']} × {machine['cpu']}: Python {machine['python']},"
        f" grpcio {machine['grpcio']}, Postgres {machine['postgres']}; {settings['rounds']} rounds of"
        f" {settings['seconds']:g} s for each side, {settings['in_flight']} unary calls in flight, router workers ="
        f" echo processes = {settings['processes']}; users' lists {'on' if settings.get('user_side') else 'off'}.",
        "",
        *_markdown_table(figures_table(run)),
    ]
    for nodes, sides in clusters_of(run).items():
        others = others_share(sides, machine["cpus"])
        lines += ["", f"While {_nodes(nodes)} ran, other programs took {others:.0%} of the machine."]
    for nodes, sides in clusters_of(run).items():
        lines += ["", f"### Sides, {_nodes(nodes)}", "", *_markdown_table(sides_table(sides))]
    lines += ["", "### Checked afterwards", ""]
    for nodes, cluster in run["clusters"].items():
        checks = cluster["checks"]
        wrong = [f"{side}: {problem}" for side, problem in checks["problems"].items()]
        lines.append(
            f"- {_nodes(nodes)}: {checks['likes']:,} acknowledged likes of {checks['sides']} sides looked for in the"
            f" databases: {'; '.join(wrong) if wrong else 'all there, counts and versions exact'}."
        )
        if checks["errors"]:
            lines.append(
                f"  Failed calls: {', '.join(f'{side} {count}' for side, count in checks['errors'].items())}."
            )
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *body = rows
    aligned = [":--" if column == 0 else "--:" for column in range(len(header))]
    return ["| " + " | ".join(row) + " |" for row in (header, aligned, *body)]


def write_into(page: Path, tables: str, mark: str = BEGIN) -> None:
    """Replaces what stands between a mark of a page and the next end. Raises ValueError when it has none."""
    text = page.read_text()
    before, begin, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no line {mark} and {END}")
    page.write_text(f"{before}{mark}\n\n{tables}\n{END}{after}")
