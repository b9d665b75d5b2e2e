"""The commands of ``likering ring`` that look back: history, report, check."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, ring_at
from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.figures import count, duration
from likering.cli.messages import plain
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.report import report_of
from likering.cli.resize import outcome


def history(
    admin: Admin = DEFAULT_ADMIN,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many resizes.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the newest resizes, newest first."""
    with ring_at(admin) as ring:
        resizes = ring.call(ring.stub.ListResizes, api.ListResizesRequest(limit=limit)).resizes
    reports = [report_of(resize) for resize in resizes]
    if output is Output.JSON:
        print_json([{key: value for key, value in report.items() if key != "slots"} for report in reports])
        return
    # Narrow enough for 80 columns; JSON has the rest.
    numbers = ("resize", "moved", "took", "rows", "pauses (ms): p50, p99, max")
    first, *others = (Column(name, justify="right") for name in numbers)
    table = Table(first, Column("applied", no_wrap=True), *others)
    for report in reports:
        table.add_row(str(report["resize"]), *_history_figures(report))
    Console().print(table)


def _history_figures(report: dict[str, Any]) -> list[str]:
    pauses = report["pauses"]
    date, _, time = report["apply_time"].partition("T")
    return [
        f"{date} {time[:8]}Z",
        f"{report['slots_moved']} of {report['slots_planned']}",
        duration(report["seconds"]),
        count(report["rows"]),
        ", ".join(f"{pauses[key] * 1000:.1f}" for key in ("p50", "p99", "max")) if pauses["count"] else "",
    ]


def report(
    resize: Annotated[
        int,
        typer.Argument(
            min=0, metavar="[RESIZE]", help="Its number. Default: the newest.", show_default=False
        ),
    ] = 0,
    admin: Admin = DEFAULT_ADMIN,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what became of a resize: per slot its attempts, rows and pause; as JSON, each phase with its times.

    Exit code 3: there was no resize yet; 4: none of that number.
    """
    with ring_at(admin) as ring:
        request = api.ListResizesRequest(limit=1, resize=resize)
        resizes = ring.call(ring.stub.ListResizes, request).resizes
    if not resizes:
        nothing_to_do("There was no resize yet.")
    made = report_of(resizes[0])
    if output is Output.JSON:
        print_json(made)
        return
    numbers = ("attempts", "rows", "pause", "given up", "lag")
    table = Table(
        Column("slot", justify="right"),
        "from",
        "to",
        "state",
        *(Column(name, justify="right") for name in numbers),
    )
    for slot in made["slots"]:
        table.add_row(
            str(slot["slot"]),
            slot["source"],
            slot["target"],
            slot["state"],
            str(slot["attempts"]),
            count(slot["rows"]),
            duration(slot["pause"]) if slot["pause"] else "",
            ", ".join(duration(freeze) for freeze in slot["aborted_freezes"]),
            duration(slot["lag"]) if slot["lag"] else "",
        )
    console = Console()
    console.print(table)
    console.print(outcome(made), soft_wrap=True)


def check(admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """Compare the topology with what each node's database holds, and find what moves have left behind.

    Exit code 1: something is not as it should be, or a node did not answer.
    """
    with ring_at(admin) as ring:
        found = ring.call(ring.stub.CheckTopology, api.CheckTopologyRequest())
    lasting = [finding for finding in found.findings if not finding.transient]
    if output is Output.JSON:
        print_json(plain(found))
    elif found.findings or not found.unreachable:
        _show_findings(lasting, len(found.findings) - len(lasting))
    if found.unreachable:
        fail(f"no answer, so nothing is known of: {', '.join(found.unreachable)}", ExitCode.FAILED)
    if lasting:
        fail(f"{len(lasting)} things are not as they should be", ExitCode.FAILED)


def _show_findings(lasting: list[api.Finding], transient: int) -> None:
    console = Console()
    if lasting:
        # Folded, not cut: a remedy is there to be copied.
        table = Table(
            "node", *(Column(name, overflow="fold") for name in ("what", "what to do")), show_lines=True
        )
        for finding in lasting:
            table.add_row(finding.node, escape(finding.what), escape(finding.remedy))
        console.print(table)
    else:
        console.print("Nothing was found that is not as it should be.")
    if transient:
        console.print(f"{transient} things belong to moves under way and go with them (-o json lists them).")
