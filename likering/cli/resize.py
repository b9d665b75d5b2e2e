"""Plans, applies, and waits until all moves of a resize have been verified."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli import plans
from likering.cli.admin import AdminError, Ring
from likering.cli.confirm import confirm
from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.figures import count, duration
from likering.cli.live import waits_for
from likering.cli.output import Output, print_json
from likering.cli.report import DONE, GIVEN_UP, report_of

_TRIES: Final = 5
"""A node that restarts changes the topology's version, and with it makes a plan stale whose moves are still right."""

Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until every slot has been moved and verified.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="How long to wait, in seconds; the moves go on after that. Without it: as long as it takes.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", dir_okay=False, help="Write what became of each slot to this file, as JSON."),
]


@dataclass(frozen=True, slots=True)
class Course:
    """How a command goes about a resize. ``timeout`` in seconds, None: none."""

    yes: bool
    wait: bool
    timeout: float | None
    report: Path | None
    output: Output


def plan_and_apply(ring: Ring, weights: Mapping[str, int], course: Course, *, nothing: str) -> None:
    """Plans a resize, asks, and sees it through. ``nothing``: what to say when there is nothing to do."""
    plan = make_plan(ring, weights)
    if not plan.moves and not plan.weights:
        nothing_to_do(nothing)
    ask(plan, course.yes)
    follow(ring, apply_anew(ring, plan, weights), course)


def make_plan(ring: Ring, weights: Mapping[str, int]) -> api.Plan:
    """The plan of the topology as it is now."""
    return ring.call(ring.stub.PlanResize, api.PlanResizeRequest(weights=weights)).plan


def ask(plan: api.Plan, yes: bool) -> None:
    """Shows on stderr what is about to happen, and asks."""
    plans.show(plan, Console(stderr=True), moves=False)
    confirm(f"Move {len(plan.moves)} slots?" if plan.moves else "Set these weights?", yes)


def apply_plan(ring: Ring, plan: api.Plan) -> int:
    """The number of the resize; 0 when the plan has no moves."""
    return ring.call(ring.stub.ApplyPlan, api.ApplyPlanRequest(plan=plan)).resize


def apply_anew(ring: Ring, plan: api.Plan, weights: Mapping[str, int]) -> int:
    """As apply_plan; a plan that is stale is made again, as long as it has the same moves."""
    for _ in range(_TRIES - 1):
        try:
            return apply_plan(ring, plan)
        except AdminError as error:
            if error.reason != "PLAN_STALE":
                raise
            again = make_plan(ring, weights)
            if again.version == plan.version or not plans.same_moves(again, plan):
                raise
            plan = again
    return apply_plan(ring, plan)


def follow(ring: Ring, resize: int, course: Course) -> None:
    """Sees a resize through as far as the course says, and prints what became of it."""
    if not resize:
        if course.output is Output.JSON:
            print_json({"resize": 0})
        else:
            typer.echo("The weights are set; no slot has to move.")
        return
    if not course.wait:
        if course.output is Output.JSON:
            print_json({"resize": resize})
        else:
            typer.echo(f"Resize {resize} has begun; likering ring watch shows it.")
        return
    timed_out = _wait(ring, resize, course.timeout)
    report = report_of(
        ring.call(ring.stub.ListResizes, api.ListResizesRequest(limit=1, resize=resize)).resizes[0]
    )
    if course.report is not None:
        course.report.write_text(json.dumps(report, indent=2) + "\n")
    if course.output is Output.JSON:
        print_json(report)
    else:
        Console().print(outcome(report), soft_wrap=True)
    if timed_out:
        fail(
            f"resize {resize} goes on, but was not done within {course.timeout:g} s; see: likering ring watch",
            ExitCode.TIMED_OUT,
        )
    if report["slots_given_up"]:
        fail(
            f"{report['slots_given_up']} of the {report['slots_planned']} moves were cancelled or reverted",
            ExitCode.FAILED,
        )


def outcome(report: Mapping[str, object]) -> str:
    """A report in one line."""
    pauses = report["pauses"]
    assert isinstance(pauses, dict)
    speed = report["rows_per_second"]
    line = (
        f"resize {report['resize']}: {report['slots_moved']} of {report['slots_planned']} slots moved"
        f" (the fewest possible: {report['minimum']}) in {duration(_number(report['seconds']))},"
        f" {count(int(_number(report['rows'])))} rows"
    )
    if speed:
        line += f" ({count(int(_number(speed)))}/s)"
    if pauses["count"]:
        line += "; pauses: " + ", ".join(f"{key} {duration(pauses[key])}" for key in ("p50", "p99", "max"))
    if pauses["aborted"]:
        line += f", {pauses['aborted']} of them freezes that were given up in time"
    if report["slots_never_compared"]:
        line += f"; {report['slots_never_compared']} never compared, because a node was lost"
    return line


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def _wait(ring: Ring, resize: int, timeout: float | None) -> bool:
    """Shows the progress on stderr until all moves are done or given up. Whether the time was up before."""
    deadline = None if timeout is None else time.monotonic() + timeout
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("slots"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = progress.add_task("", total=None)
    told = -1
    with progress:
        try:
            pictures = ring.watch(
                ring.stub.WatchMoves, api.WatchMovesRequest(resize=resize), deadline=deadline
            )
            for picture in pictures:
                done = sum(move.state in DONE | GIVEN_UP for move in picture.moves)
                copied = sum(move.rows_copied for move in picture.moves)
                waits = next((text for move in picture.moves if (text := waits_for(move))), "")
                described = escape(f"{copied:,} rows; {waits}" if waits else f"{copied:,} rows")
                progress.update(task, total=len(picture.moves), completed=done, description=described)
                if not console.is_terminal and done != told:
                    typer.echo(f"{done} of {len(picture.moves)} slots, {copied:,} rows", err=True)
                    told = done
                if done == len(picture.moves):
                    return False
        except TimeoutError:
            return True
        except KeyboardInterrupt:
            fail("the moves go on without this command; see: likering ring watch", ExitCode.FAILED)
    raise AssertionError("a watch ends only by an error")
