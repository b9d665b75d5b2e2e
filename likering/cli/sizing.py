"""``likering plan``: how large a cluster has to be for so many users, and whether what that rests on holds here."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from likering.capacity.sizing import Costs, Machines, Size, Workload, remarks, size
from likering.cli.exit_codes import ExitCode, fail
from likering.cli.output import Output, OutputOption, print_json
from likering.dev.errors import DevError

_WORKLOAD, _COSTS, _MACHINES = Workload(), Costs(), Machines()
_MEASURED_LIKES = 200_000
_MEASURED_SECONDS = 6.0
_TOLERATED = 2.0
"""By how much a measured cost may exceed an assumed one: a shared machine is no better a scale."""


def plan_cluster(
    users: Annotated[int, typer.Option(min=1, help="People who like.")] = _WORKLOAD.users,
    likes: Annotated[
        float, typer.Option("--likes-per-user", help="Likes per user and day.")
    ] = _WORKLOAD.likes_per_user_day,
    peak: Annotated[float, typer.Option(min=1.0, help="The busiest second ÷ the mean.")] = _WORKLOAD.peak,
    reads: Annotated[
        float, typer.Option("--reads-per-like", min=0.0, help="Counts asked for per like made.")
    ] = _WORKLOAD.reads_per_like,
    posts_per_read: Annotated[int, typer.Option(min=1, max=200, help="Counts of one call.")] = (
        _WORKLOAD.posts_per_read
    ),
    retention_days: Annotated[int, typer.Option(min=1, help="How long likes are kept.")] = (
        _WORKLOAD.retention_days
    ),
    replicas: Annotated[
        int, typer.Option(min=1, help="Postgres instances per shard, the primary included.")
    ] = _WORKLOAD.copies,
    bytes_per_like: Annotated[
        float, typer.Option(help="Of disk, in one copy, with all indexes.")
    ] = _COSTS.bytes_per_like,
    disk: Annotated[float, typer.Option("--disk-tb", help="Of one Postgres, in TB.")] = (
        _MACHINES.disk_bytes / 1e12
    ),
    utilisation: Annotated[
        float, typer.Option(max=1.0, help="Of a core at the peak: how busy it may be.")
    ] = _MACHINES.utilisation,
    workers: Annotated[int, typer.Option(min=1, help="Of a router; each has a core.")] = _MACHINES.workers,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Measure the assumptions on an embedded cluster: about a minute."),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Size a new cluster on paper: from users to requests/s, storage, shards, slots, routers and cores.

    Needs no cluster, and changes nothing. For the moves of a running ring's resize: ring plan.
    Exit code 1: with --verify, something costs more than twice what is assumed.
    """
    workload = Workload(
        users=users,
        likes_per_user_day=likes,
        peak=peak,
        reads_per_like=reads,
        posts_per_read=posts_per_read,
        retention_days=retention_days,
        copies=replicas,
    )
    costs = Costs(bytes_per_like=bytes_per_like)
    machines = Machines(disk_bytes=disk * 1e12, utilisation=utilisation, workers=workers)
    try:
        found = size(workload, costs, machines)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    measured = _measure(workload) if verify else None
    if output is Output.JSON:
        print_json(
            {
                "workload": asdict(workload),
                "assumed": asdict(costs),
                "machines": asdict(machines),
                "size": asdict(found),
                "remarks": remarks(found),
            }
            | ({"measured": asdict(measured)} if measured else {})
        )
    else:
        _show(found, workload, machines, Console())
        if measured is not None:
            Console().print(_compared(costs, measured))
    if measured is not None and (worse := dearer(costs, measured)):
        fail(f"more than {_TOLERATED:g} times as dear as assumed: {', '.join(worse)}", ExitCode.FAILED)


def dearer(assumed: Costs, measured: Costs) -> list[str]:
    """What costs so much more than assumed that a plan should not rest on it."""
    there, here = asdict(assumed), asdict(measured)
    return [name for name in there if _ratio(name, there, here) > _TOLERATED]


def _ratio(name: str, assumed: dict[str, float], measured: dict[str, float]) -> float:
    """How much dearer: of bytes more is dearer, of what a core does less."""
    if name == "bytes_per_like":
        return measured[name] / assumed[name]
    return assumed[name] / measured[name]


def _measure(workload: Workload) -> Costs:
    from likering.capacity.measuring import measure

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with tempfile.TemporaryDirectory(prefix="likering-plan-") as directory:
        try:
            return asyncio.run(
                measure(
                    Path(directory) / "cluster",
                    seconds=_MEASURED_SECONDS,
                    likes=_MEASURED_LIKES,
                    posts_per_read=workload.posts_per_read,
                    say=say,
                )
            )
        except DevError as error:
            fail(str(error), ExitCode.FAILED)


def _show(found: Size, workload: Workload, machines: Machines, console: Console) -> None:
    table = Table("", Column("", justify="right"), show_header=False)
    for section in (
        (
            ("likes/s, mean", _number(found.likes_mean)),
            ("likes/s, peak", _number(found.likes_peak)),
            ("counts read/s, peak", _number(found.counts_peak)),
            (f"read calls/s, peak ({workload.posts_per_read} counts each)", _number(found.read_calls_peak)),
            ("calls from routers to nodes/s, peak", _number(found.batches_peak)),
            ("operations of such a call", _number(found.operations_per_batch)),
        ),
        (
            (f"likes kept ({workload.retention_days} days)", _number(found.likes_kept)),
            ("data, one copy", _bytes(found.data_bytes)),
            (
                f"disks ({workload.copies} copies, {machines.fullness:.0%} full)",
                _bytes(found.disk_bytes),
            ),
            ("growth a month, one copy", _bytes(found.growth_bytes_month)),
            ("growth a month, disks", _bytes(found.growth_disk_month)),
        ),
        (
            ("shards for storage", _number(found.shards_for_storage)),
            ("shards for load", _number(found.shards_for_load)),
            ("shards", _number(found.shards)),
            ("slots", _number(found.slots)),
            ("fullest shard ÷ mean", f"{found.largest_share:.3f}"),
            ("likes/s of a shard, peak", _number(found.likes_peak_shard)),
        ),
        (
            ("each Postgres: disk", _bytes(found.postgres_disk)),
            ("each Postgres: memory", _bytes(found.postgres_memory)),
            ("each Postgres: cores", _number(found.postgres_cores)),
            (f"routers ({machines.workers} workers each)", _number(found.routers)),
            ("cores: routers", _number(found.router_cores)),
            ("cores: nodes and caches", _number(found.node_cores)),
            ("cores: Postgres, all copies", _number(found.all_postgres_cores)),
            ("cores", _number(found.cores)),
        ),
    ):
        for name, value in section:
            table.add_row(name, value)
        table.add_section()
    console.print(table)
    for remark in remarks(found):
        console.print(remark, soft_wrap=True)


def _compared(assumed: Costs, measured: Costs) -> Table:
    headings = ("assumed", "measured here", "dearer by")
    table = Table("per core and second", *(Column(heading, justify="right") for heading in headings))
    there, here = asdict(assumed), asdict(measured)
    for name in there:
        table.add_row(
            name.replace("_", " "),
            _number(there[name]),
            _number(here[name]),
            f"{_ratio(name, there, here):.2f}",
        )
    return table


def _number(value: float) -> str:
    """1,234, or with a decimal below ten when there is one."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _bytes(value: float) -> str:
    """In the units by which disks are bought, of a thousand each."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} PB"
