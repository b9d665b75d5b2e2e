"""Draws a load's result: latency by percentile, and latency and calls over time. PNG or SVG, by the file's name."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from likering.bench.results import LoadResult

# Up to 99.99 %, each step halving or so what is left: the usual HDR plot.
_SHARES = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99]
_LABELLED = {0.0: "0", 50.0: "50", 90.0: "90", 99.0: "99", 99.9: "99.9", 99.99: "99.99"}


def plot(result: LoadResult, file: Path, *, title: str) -> None:
    """Writes the picture. Raises ValueError for a file name that ends neither in .png nor in .svg."""
    if file.suffix not in {".png", ".svg"}:
        raise ValueError("the plot's file name must end in .png or .svg")
    with mpl.rc_context({"svg.hashsalt": "likering", "font.size": 9}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        figure.suptitle(title)
        by_percentile, over_time = figure.subplots(1, 2)

        places = [1.0 / (1.0 - share / 100.0) for share in _SHARES]
        for op, part in result.ops.items():
            if part.calls:
                by_percentile.plot(
                    places,
                    [max(part.latency.percentile(share), 1) / 1000 for share in _SHARES],
                    label=op.value,
                    marker=".",
                )
        by_percentile.set_xscale("log")
        by_percentile.set_yscale("log")
        by_percentile.set_xticks([1.0 / (1.0 - share / 100.0) for share in _LABELLED], _LABELLED.values())
        by_percentile.minorticks_off()
        by_percentile.yaxis.set_major_formatter("{x:g}")
        by_percentile.set_xlabel("percentile")
        by_percentile.set_ylabel("latency from the intended send time, ms")
        by_percentile.grid(alpha=0.3)
        if result.calls:
            by_percentile.legend()

        seconds = range(1, len(result.timeline) + 1)
        over_time.plot(seconds, [max(second.p99, 1) / 1000 for second in result.timeline], label="p99")
        over_time.plot(seconds, [max(second.p50, 1) / 1000 for second in result.timeline], label="p50")
        over_time.set_yscale("log")
        over_time.yaxis.set_major_formatter("{x:g}")
        over_time.yaxis.set_minor_formatter("{x:g}")
        over_time.set_xlabel("second")
        over_time.set_ylabel("latency, ms")
        over_time.grid(alpha=0.3)
        rates = over_time.twinx()
        rates.bar(
            seconds, [second.calls for second in result.timeline], alpha=0.15, color="gray", label="calls/s"
        )
        rates.bar(
            seconds,
            [second.errors for second in result.timeline],
            alpha=0.6,
            color="crimson",
            label="errors/s",
        )
        rates.set_ylabel("calls/s")
        lines, labels = over_time.get_legend_handles_labels()
        bars, bar_labels = rates.get_legend_handles_labels()
        over_time.legend(lines + bars, labels + bar_labels, loc="lower right")
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=130)
