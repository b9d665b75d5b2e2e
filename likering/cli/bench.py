"""``likering bench``: load on a router, and what its callers would have seen."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from likering.bench.choices import Arrivals, CallerKind, Keys
from likering.cli.credentials import files_of_command, of_command

if TYPE_CHECKING:
    from likering.bench.load import Load
    from likering.bench.results import LoadResult

app = typer.Typer(help="Put load on a router and measure what callers see.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def bench(
    address: Annotated[
        str, typer.Option(envvar="LIKERING_ADDRESS", help="The router, host:port.")
    ] = "localhost:50051",
    rate: Annotated[
        str, typer.Option(help="Calls a second (open loop), or 'max': as many as --in-flight allows.")
    ] = "500",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0.0, help="How long to run before that.")] = 2.0,
    mix: Annotated[
        str,
        typer.Option(
            help="Shares of like, unlike, has-liked, count, mutate and summaries: 'like=1,count=9'."
        ),
    ] = "like",
    keys: Annotated[Keys, typer.Option(help="How calls spread over the posts.")] = Keys.SPREAD,
    posts: Annotated[int, typer.Option(min=1, help="Number of posts.")] = 200_000,
    exponent: Annotated[float, typer.Option(min=0.0, help="Exponent of the zipf distribution.")] = 1.1,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Mutations in a MutateLikes.")] = 500,
    page: Annotated[int, typer.Option(min=1, max=200, help="Posts in a GetLikeSummaries.")] = 100,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Calls evenly, or in bursts as independent callers make them.")
    ] = Arrivals.STEADY,
    in_flight: Annotated[int, typer.Option(min=1, help="With --rate max: calls in flight.")] = 256,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that make the load.")] = 1,
    caller: Annotated[
        CallerKind, typer.Option(help="Plain HTTP/2 with little CPU, or grpcio's asyncio client.")
    ] = CallerKind.LIGHT,
    connections: Annotated[int, typer.Option(min=1, help="Connections of each process.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds after which a call has failed.")] = 10.0,
    check: Annotated[
        bool,
        typer.Option(help="Read all counts back afterwards and compare them with what was acknowledged."),
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed makes the same calls.")] = 1,
    prefix: Annotated[
        str,
        typer.Option(help="Six letters or digits that all ids of this run begin with; random by default."),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result as JSON to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw latencies and calls into this file (.png or .svg).")
    ] = None,
) -> None:
    """Send calls at a fixed rate, whatever the service does, and show latencies, codes and throughput.

    Latency counts from the moment a call was meant to be sent. Every like is of a new edge, of posts and users of this
    run's own. Exit code 1: the router cannot be reached; 4: --check found a difference.
    """
    console = Console()
    try:
        from likering.bench.load import Load
        from likering.bench.plot import plot as draw
        from likering.bench.results import to_json
        from likering.bench.workload import Workload, parse_mix
    except ModuleNotFoundError as error:
        raise _fail(
            f"{error.name} is not installed; likering bench needs: pip install 'likering[bench]'"
        ) from None

    _check_plot(plot)
    try:
        workload = Workload(
            prefix=prefix or secrets.token_hex(3),
            mix=parse_mix(mix),
            keys=keys,
            posts=posts,
            exponent=exponent,
            batch=batch,
            page=page,
            seed=seed,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    of_command()  # says what cannot be read, here and not in the processes that make the load
    load = Load(
        address=_checked_address(address),
        shown=files_of_command(),
        workload=workload,
        seconds=seconds,
        warmup=warmup,
        rate=_rate(rate),
        arrivals=arrivals,
        in_flight=in_flight,
        caller=caller,
        connections=connections,
        timeout=timeout,
    )
    result = asyncio.run(_run(load, processes, console))

    from likering.bench.report import show

    show(result, console)
    report = to_json(result)
    problem = asyncio.run(_read_back(load, result, console)) if check else None
    report["run"] = {"address": address, "rate": rate, "mix": mix, "keys": keys.value, "posts": posts}
    report["run"] |= {
        "prefix": workload.prefix,
        "processes": processes,
        "caller": caller.value,
        "checked": check,
    }
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")
        console.print(f"wrote {output}")
    if plot is not None:
        draw(result, plot, title=f"likering bench: {mix} at {rate}/s, {keys} over {posts:,} posts")
        console.print(f"wrote {plot}")
    if problem is not None:
        raise _fail(problem, code=4)


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e6:
        raise typer.BadParameter("it must be a number above 0, or 'max'", param_hint="--rate")
    return rate


def _checked_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise typer.BadParameter("it must be host:port", param_hint="--address")
    return text


def _check_plot(file: Path | None) -> None:
    if file is not None and file.suffix not in {".png", ".svg"}:
        raise typer.BadParameter("the file's name must end in .png or .svg", param_hint="--plot")


async def _run(load: Load, processes: int, console: Console) -> LoadResult:
    from likering.bench.processes import LoadFailed, run_processes
    from likering.bench.results import Second

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,  # the terminal shares the machine with what is measured
    )
    task = progress.add_task("load", total=load.seconds * processes, figures="warming up")

    def on_second(second: Second) -> None:
        progress.update(
            task,
            advance=1,
            figures=f"{second.calls * processes:,} calls/s, p99 {second.p99 / 1000:.1f} ms,"
            f" {second.errors * processes:,} errors",
        )

    with progress:
        try:
            return await run_processes(load, processes, on_second=on_second)
        except LoadFailed as error:
            raise _fail(str(error)) from None


async def _read_back(load: Load, result: LoadResult, console: Console) -> str | None:
    from likering.bench.readback import read_back

    try:
        found = await read_back(load.address, load.workload, shown=load.shown)
    except grpc.RpcError as error:
        return f"the counts could not be read back: {error.code().name}"
    problem = found.problem(result.written)
    if problem is None:
        console.print(
            f"checked: counts add up to {found.counts:,} and versions to {found.versions:,}, as acknowledged"
        )
    return problem


def _fail(message: str, code: int = 1) -> typer.Exit:
    typer.echo(f"likering bench: {message}", err=True)
    return typer.Exit(code)
