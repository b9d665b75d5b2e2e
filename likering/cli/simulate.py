"""``likering simulate``: a ring of thousands of nodes on paper, as it grows, is hit by viral posts, and loses nodes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from likering.capacity.simulation import MOST_NODES, Scenario, Step, simulate
from likering.cli.exit_codes import ExitCode, fail
from likering.cli.figures import compact, count, duration
from likering.cli.output import Output, OutputOption, print_json
from likering.ring.hashing import MAX_SLOT_COUNT

_DEFAULT = Scenario()


def simulate_ring(
    nodes: Annotated[
        int, typer.Option(min=1, max=MOST_NODES, help="How far the ring grows.")
    ] = _DEFAULT.nodes,
    first_nodes: Annotated[
        int, typer.Option("--from", min=1, max=MOST_NODES, help="How many nodes it begins with.")
    ] = _DEFAULT.first_nodes,
    slots: Annotated[int, typer.Option(min=1, max=MAX_SLOT_COUNT, help="A power of two.")] = _DEFAULT.slots,
    joins: Annotated[int, typer.Option(min=0, help="How often one node joins after that.")] = _DEFAULT.joins,
    losses: Annotated[int, typer.Option(min=0, help="How often one is lost then.")] = _DEFAULT.losses,
    posts: Annotated[int, typer.Option(min=1, help="Posts that are liked.")] = _DEFAULT.posts,
    exponent: Annotated[
        float, typer.Option(min=0.0, help="Of Zipf's law: how much the first posts have of the likes.")
    ] = _DEFAULT.exponent,
    viral: Annotated[int, typer.Option(min=0, help="Viral posts in each step.")] = _DEFAULT.viral,
    viral_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of all likes, for each viral post.")
    ] = _DEFAULT.viral_share,
    rows: Annotated[int, typer.Option(min=0, help="Likes stored.")] = _DEFAULT.rows,
    slots_at_once: Annotated[
        int, typer.Option(min=1, max=64, help="Moves that a node takes part in, as in: ring limits.")
    ] = _DEFAULT.slots_at_once,
    rows_per_second: Annotated[
        int, typer.Option(min=0, help="Rows that a node copies, as in: ring limits; 0: no limit.")
    ] = _DEFAULT.rows_per_second,
    seed: Annotated[
        int, typer.Option(help="Another one gives other posts and other losses.")
    ] = _DEFAULT.seed,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw it to a .png or .svg file (extra: bench).")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Simulate a ring that doubles, grows by one and loses nodes: evenness, moved data, hottest node, time.

    Needs no cluster. Slots are placed by the code that plans real resizes; for the plan of your own ring: ring plan.
    """
    scenario = Scenario(
        slots=slots,
        first_nodes=min(first_nodes, nodes),
        nodes=nodes,
        joins=joins,
        losses=losses,
        posts=posts,
        exponent=exponent,
        viral=viral,
        viral_share=viral_share,
        rows=rows,
        slots_at_once=slots_at_once,
        rows_per_second=rows_per_second,
        seed=seed,
    )
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise typer.BadParameter("the file's name must end in .png or .svg", param_hint="--plot")
    try:
        steps = list(simulate(scenario))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if output is Output.JSON:
        print_json({"scenario": asdict(scenario), "steps": [asdict(step) for step in steps]})
    else:
        Console().print(_table(steps))
    if plot is not None:
        _draw(steps, plot, f"likering simulate: {slots:,} slots, up to {nodes:,} nodes, seed {seed}")


def _table(steps: list[Step]) -> Table:
    headings = ("nodes", "moved", "fewest", "rows", "time", "slots", "likes", "viral")
    table = Table(
        Column("event", no_wrap=True),
        *(Column(heading, justify="right", no_wrap=True) for heading in headings),
        Column("hottest", no_wrap=True),
        box=SIMPLE_HEAD,  # with lines between its columns it is wider than a terminal of 80
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
        title="slots, likes and viral: the most of a node ÷ the mean",
        title_justify="left",
    )
    for step in steps:
        table.add_row(
            step.event,
            count(step.nodes),
            count(step.moved),
            count(step.fewest),
            compact(step.rows_moved),
            duration(step.seconds),
            f"{step.slots_max_over_mean:.3f}",
            compact(step.load_max_over_mean),
            compact(step.viral_max_over_mean),
            step.hottest,
        )
    return table


def _draw(steps: list[Step], file: Path, title: str) -> None:
    try:
        from likering.capacity.picture import draw
    except ModuleNotFoundError as error:
        fail(f"--plot needs {error.name}: pip install 'likering[bench]'", ExitCode.FAILED)
    draw(steps, file, title=title)
