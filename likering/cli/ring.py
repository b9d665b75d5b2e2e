"""``likering ring``: see how slots are spread, plan and apply resizes; puts the commands of the ring together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli import live, moves, plans, records
from likering.cli.admin import DEFAULT_ADMIN, Admin, ring_at
from likering.cli.confirm import Yes
from likering.cli.exit_codes import nothing_to_do
from likering.cli.messages import plain
from likering.cli.node_table import show_nodes
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.report import state_name
from likering.cli.resize import (
    Course,
    ReportFile,
    Timeout,
    Wait,
    apply_plan,
    ask,
    follow,
    make_plan,
    plan_and_apply,
)

app = typer.Typer(
    help="Plan and apply resizes of the ring, and look after their moves.", no_args_is_help=True
)


def _weights(values: list[str]) -> dict[str, int]:
    weights = {}
    for value in values:
        name, _, weight = value.partition("=")
        if not name or not weight.isdecimal() or not int(weight):
            raise typer.BadParameter(
                f"a weight is NAME=N with N of at least 1, not {value!r}", param_hint="--weight"
            )
        weights[name] = int(weight)
    return weights


Weights = Annotated[
    list[str],
    typer.Option(
        "--weight",
        metavar="NAME=N",
        help="Plan for this weight of a node; it is set when the plan is applied. Repeatable.",
    ),
]


@app.command()
def status(admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """Show the nodes with their slots, the limits, and the moves that have not ended."""
    with ring_at(admin) as ring:
        topology = ring.call(ring.stub.GetTopology, api.GetTopologyRequest()).topology
        listed = ring.call(ring.stub.ListMoves, api.ListMovesRequest())
    if output is Output.JSON:
        print_json({"topology": plain(topology), **plain(listed)})
        return
    console = Console()
    console.print(
        f"cluster {topology.cluster_id}, version {topology.version}, {len(topology.owners)} slots,"
        f" {sum(not owner for owner in topology.owners)} without owner",
        soft_wrap=True,
    )
    show_nodes(topology.nodes, console)
    console.print(live.limits_line(listed.limits), soft_wrap=True)
    console.print(live.moves_line(listed.moves), soft_wrap=True)
    for move in listed.moves:
        if reason := live.waits_for(move):
            console.print(
                f"slot {move.slot} ({state_name(move.state)}): {reason}", soft_wrap=True, markup=False
            )


@app.command()
def plan(
    admin: Admin = DEFAULT_ADMIN,
    weight: Weights = [],  # noqa: B006 - typer never changes it
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the plan to this file, for: ring apply FILE")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which slots would move to bring every slot onto the active nodes by their weights. Changes nothing.

    Of a ring that runs; how large a new cluster has to be says: likering plan.
    Exit code 3: there is nothing to move.
    """
    with ring_at(admin) as ring:
        made = make_plan(ring, _weights(weight))
    if out is not None:
        plans.save(made, out)
    if output is Output.JSON:
        print_json(plain(made))
    else:
        plans.show(made, Console())
    if not made.moves:
        nothing_to_do("Every node holds its quota already; no slot has to move.")


@app.command()
def apply(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[PLAN]", exists=True, dir_okay=False, help="A file of: ring plan --out"),
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    weight: Weights = [],  # noqa: B006
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = None,
    report: ReportFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move slots by a plan; without a file, by a plan that is made now.

    Exit code 1: moves were cancelled or reverted meanwhile; 3: nothing to move; 4: refused, for instance because the
    topology has changed since the plan was made; 5: not done within --timeout (the moves go on).
    """
    course = Course(yes=yes, wait=wait, timeout=timeout, report=report, output=output)
    weights = _weights(weight)
    if file is not None and weights:
        raise typer.BadParameter("a plan in a file has its weights already", param_hint="--weight")
    given = plans.load(file) if file is not None else None
    with ring_at(admin) as ring:
        if given is None:
            plan_and_apply(ring, weights, course, nothing="Every node holds its quota already.")
            return
        if not given.moves and not given.weights:
            nothing_to_do("The plan has no moves.")
        ask(given, yes)
        follow(ring, apply_plan(ring, given), course)


@app.command()
def watch(
    admin: Admin = DEFAULT_ADMIN,
    resize: Annotated[
        int,
        typer.Option(min=0, help="Only moves of this resize, ended ones too; 0: all that have not ended."),
    ] = 0,
    once: Annotated[bool, typer.Option("--once", help="Show one picture and end.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show nodes and moves as they change, until Ctrl-C. As JSON: one line for each picture."""
    console = Console()
    with ring_at(admin) as ring, suppress(KeyboardInterrupt):
        pictures = ring.watch(ring.stub.WatchMoves, api.WatchMovesRequest(resize=resize, loads=True))
        if once:
            _show_picture(next(pictures), console, output, lines=False)
        elif output is Output.JSON or not console.is_terminal:
            for picture in pictures:
                _show_picture(picture, console, output, lines=True)
        else:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
                for picture in pictures:
                    # The rest of the screen: heads, lines and the nodes.
                    rows = console.height - len(picture.nodes) - 12
                    screen.update(live.frame(picture, rows=rows), refresh=True)


def _show_picture(picture: api.WatchMovesResponse, console: Console, output: Output, *, lines: bool) -> None:
    if output is Output.JSON:
        print_json(plain(picture), lines=lines)
    else:
        console.print(live.frame(picture))


for command in (
    *(moves.pause, moves.resume, moves.limits, moves.cancel, moves.revert_slot, moves.verify),
    *(records.history, records.report, records.check),
):
    app.command()(command)
