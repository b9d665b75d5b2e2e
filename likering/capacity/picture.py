"""Draws a simulation: how even the ring is, what moved, and how long that took. PNG or SVG, by the file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from likering.capacity.simulation import Step


def draw(steps: Sequence[Step], file: Path, *, title: str) -> None:
    """Writes the picture. Raises ValueError for a file name that ends neither in .png nor in .svg."""
    if file.suffix not in {".png", ".svg"}:
        raise ValueError("the plot's file name must end in .png or .svg")
    with mpl.rc_context({"svg.hashsalt": "likering", "font.size": 9}):
        figure = Figure(figsize=(13, 4.6), layout="constrained")
        figure.suptitle(title)
        evenness, moved, time = figure.subplots(1, 3)
        places = range(len(steps))
        for axes in (evenness, moved, time):
            axes.set_xticks(places, [f"{step.event}" for step in steps], rotation=60, ha="right")
            axes.grid(alpha=0.3)

        evenness.plot(places, [step.slots_max_over_mean for step in steps], marker=".", label="slots")
        evenness.plot(places, [step.load_max_over_mean for step in steps], marker=".", label="likes")
        evenness.plot(
            places, [step.viral_max_over_mean for step in steps], marker=".", label="likes, some posts viral"
        )
        evenness.set_yscale("log")
        evenness.yaxis.set_major_formatter("{x:g}")
        evenness.set_ylabel("most of a node ÷ mean")
        evenness.legend()

        moved.bar(places, [step.moved for step in steps], alpha=0.4, label="slots moved")
        moved.plot(places, [step.fewest for step in steps], "_", color="black", label="the fewest possible")
        moved.set_ylabel("slots")
        moved.legend()

        time.bar(places, [step.seconds / 60 for step in steps], alpha=0.4)
        time.set_ylabel("minutes until the ring is balanced")
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=130)
