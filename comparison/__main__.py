"""``scripts/compare``: runs the comparison, or writes the tables of a run into a page."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.table import Table

from comparison import resize as resizing
from comparison import user_side as telling
from comparison.events import catching_up
from comparison.figures import Sample, measured, others_share
from comparison.friends import asked_together
from comparison.imports import imports
from comparison.pages import long_list
from comparison.report import (
    figure_to_json,
    figures_table,
    markdown,
    sample_to_json,
    sides_table,
    write_into,
)
from comparison.resize import Say
from comparison.resize_report import MARK, resize_markdown
from comparison.sides import Settings, Sides
from comparison.stage import Stage
from comparison.storage import stored
from comparison.watches import watching
from likering.bench.load import PacedSelector

app = typer.Typer(add_completion=False, no_args_is_help=False)

_FULL = Settings(rounds=3, seconds=3.0, warmup=0.7)
_QUICK = Settings(rounds=1, seconds=1.0, warmup=0.3)
_OTHERS = 0.08
"""How much of the machine other programs may take; the kernel's own work is a few percent."""


@app.command()
def run(
    quick: Annotated[
        bool, typer.Option(help="One short round: less than two minutes, rough figures.")
    ] = False,
    nodes: Annotated[list[int] | None, typer.Option(help="Cluster sizes; 1 and 3 by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each side is measured.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.2, help="How long each time.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Router workers, and processes of the echo and of each peer.")
    ] = 1,
    side: Annotated[list[str] | None, typer.Option(help="Only these sides.")] = None,
    user_side: Annotated[
        bool, typer.Option(help="Keep the lists of what users like, too: no peer does.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The run as JSON.")] = Path(
        "comparison.json"
    ),
) -> None:
    """Measure likering beside its peers and limits. Exit code 1: an acknowledged like is not in the databases."""
    base = _QUICK if quick else _FULL
    settings = Settings(
        rounds=rounds or base.rounds,
        seconds=seconds or base.seconds,
        warmup=base.warmup,
        processes=processes,
        user_side=user_side,
    )
    selector = PacedSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        console = Console()
        if not console.is_terminal:
            console = Console(width=150)  # a log file takes whole tables
        result = runner.run(_run(settings, nodes or [1, 3], side, selector, console))
    output.write_text(json.dumps(result, indent=1) + "\n")
    typer.echo(f"wrote {output}")
    if any(cluster["checks"]["problems"] for cluster in result["clusters"].values()):
        raise typer.Exit(1)


@app.command()
def resize(
    load: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Calls while the ring is resized ÷ those that are possible."),
    ] = 0.3,
    likes: Annotated[int, typer.Option(min=1000, help="Likes stored before.")] = 200_000,
    slots: Annotated[int, typer.Option(min=8, help="Slots of the ring that is resized under load.")] = 256,
    handoffs: Annotated[int, typer.Option(min=1, help="Slots to move under load, at least.")] = 500,
    part: Annotated[list[str] | None, typer.Option(help="Only these parts.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The figures as JSON.")] = Path(
        "resize.json"
    ),
) -> None:
    """Measure resizes. Exit code 1: a call failed, or the databases do not hold what was acknowledged."""
    console = Console()

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    async def run(part: Callable[[Path], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="likering-resize-") as directory:
            return await part(Path(directory))

    parts: dict[str, Callable[[Path], Awaitable[dict[str, Any]]]] = {
        "under load": lambda directory: resizing.under_load(
            directory, say, load=load, likes=likes, slots=slots, handoffs=handoffs
        ),
        "copy rate": lambda directory: resizing.copy_rate(directory, say, likes=3 * likes),
        "empty slots": lambda directory: resizing.empty_slots(directory, say),
        "hottest slot": lambda directory: resizing.hottest_slot(directory, say),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, measure in parts.items():
        if part is None or name in part:
            figures[name] = asyncio.run(run(measure))
            console.print(name, figures[name])
    if part is None or "planning" in part:
        figures["planning"] = resizing.planning()
        console.print("planning", figures["planning"])
    output.write_text(json.dumps(figures, indent=1) + "\n")
    if any(one.get("failed") or one.get("problem") for one in figures.values()):
        raise typer.Exit(1)


@app.command()
def pages(
    likes: Annotated[int, typer.Option(min=2000, help="Likes of the post.")] = 1_000_000,
    pages: Annotated[int, typer.Option(min=1, help="Pages to ask for at each end.")] = 300,
) -> None:
    """Measure pages of ListLikers at the start and at the end of a long list. Exit code 1: it is not complete."""
    _show_figures("pages", partial(long_list, likes=likes, pages=pages), wrong=("failed", "problem"))


@app.command()
def friends(
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is measured.")] = 10,
) -> None:
    """Measure FilterLikers beside HasLiked. Exit code 1: an answer was wrong."""
    _show_figures("friends", partial(asked_together, rounds=rounds), wrong=("wrong",))


@app.command("import")
def import_(
    likes: Annotated[int, typer.Option(min=1000, help="Likes of the file.")] = 500_000,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster.")] = 3,
) -> None:
    """Measure an import, and a COPY of the same file. Exit code 1: something is not in the databases."""
    _show_figures("import", partial(imports, likes=likes, nodes=nodes), wrong=("problem",))


@app.command()
def watch(
    watchers: Annotated[int, typer.Option(min=1, help="Watchers of one post.")] = 2000,
    rate: Annotated[float, typer.Option(min=1, help="Other calls a second meanwhile.")] = 300,
    seconds: Annotated[float, typer.Option(min=1, help="Of each part.")] = 30,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster.")] = 1,
) -> None:
    """Measure how soon watchers are told of likes. Exit code 1: somebody was not told the last count."""
    _show_figures(
        "watches",
        partial(watching, watchers=watchers, rate=rate, seconds=seconds, nodes=nodes),
        wrong=("without the last count", "problem"),
    )


@app.command()
def events(
    likes: Annotated[int, typer.Option(min=1000, help="Likes to store before.")] = 500_000,
    runs: Annotated[int, typer.Option(min=1, help="How often they are read.")] = 3,
) -> None:
    """Measure how fast one consumer of StreamLikeEvents catches up. Exit code 1: it did not get each like once."""
    _show_figures("events", partial(catching_up, likes=likes, runs=runs), wrong=("failed", "problem"))


@app.command()
def user_side(
    rate: Annotated[float, typer.Option(min=1, help="Likes a second while likes are looked for.")] = 2000.0,
    batch: Annotated[int, typer.Option(min=1, help="Likes of one call, while likes are looked for.")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="How long each load lasts.")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side is measured.")] = 3,
    nodes: Annotated[int, typer.Option(min=1, help="Cluster size.")] = 3,
) -> None:
    """Measure how soon a like is in ListLikedPosts, and likes with the user side on and off."""
    _show_figures(
        "users",
        partial(telling.user_side, rate=rate, batch=batch, seconds=seconds, rounds=rounds, nodes=nodes),
        wrong=("problem",),
    )


@app.command()
def storage(
    likes: Annotated[int, typer.Option(min=1000, help="Likes to store.")] = 2_000_000,
    posts: Annotated[int, typer.Option(min=1, help="Posts that they are of.")] = 20_000,
    users: Annotated[int, typer.Option(min=1, help="Users whose they are.")] = 100_000,
) -> None:
    """Measure bytes of disk per like, beside a plain table of the same likes."""
    _show_figures("storage", partial(stored, likes=likes, posts=posts, users=users))


@app.command()
def render(
    result: Annotated[Path, typer.Argument(help="The JSON of a run.")],
    page: Annotated[Path, typer.Option(help="The page to write the tables into.")] = Path(
        "docs/benchmarks.md"
    ),
) -> None:
    """Write the tables of a run into docs/benchmarks.md."""
    write_into(page, markdown(json.loads(result.read_text())))
    typer.echo(f"wrote {page}")


@app.command()
def render_resize(
    result: Annotated[Path, typer.Argument(help="The JSON of all parts of resize.")],
    page: Annotated[Path, typer.Option(help="The page to write the table into.")] = Path(
        "docs/benchmarks.md"
    ),
) -> None:
    """Write the table of resizes into docs/benchmarks.md."""
    write_into(page, resize_markdown(json.loads(result.read_text())), MARK)
    typer.echo(f"wrote {page}")


def _show_figures(
    name: str, measure: Callable[[Path, Say], Coroutine[Any, Any, dict[str, Any]]], wrong: Sequence[str] = ()
) -> None:
    """Measures in a directory that is gone afterwards. Exit code 1 where a figure of ``wrong`` is anything."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix=f"likering-{name}-") as directory:
        figures = asyncio.run(measure(Path(directory), lambda line: console.print(line, style="dim")))
    console.print(figures)
    if any(figures[figure] for figure in wrong):
        raise typer.Exit(1)


async def _run(
    settings: Settings, sizes: list[int], only: list[str] | None, selector: PacedSelector, console: Console
) -> dict[str, Any]:
    run: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cpus": os.cpu_count(), "cpu": _cpu_model(), "python": platform.python_version()},
        "settings": asdict(settings),
        "clusters": {},
    }
    run["machine"]["grpcio"] = grpc.__version__
    for size in sizes:
        directory = Path(tempfile.mkdtemp(prefix="likering-compare-"))
        try:
            console.rule(f"{size} node{'s' if size > 1 else ''}")
            stage = Stage(directory, size, settings.processes, lambda line: console.print(line, style="dim"))
            with telling.turned(on=settings.user_side):
                async with stage:
                    run["machine"]["postgres"] = stage.postgres_version()
                    run["clusters"][str(size)] = await _measure(stage, settings, only, selector, console)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    _show(figures_table(run), "figures", console)
    return run


async def _measure(
    stage: Stage, settings: Settings, only: list[str] | None, selector: PacedSelector, console: Console
) -> dict[str, Any]:
    sides = Sides(stage, settings, secrets.token_hex(2), selector)
    await sides.prepare()
    order = [side for side in sides.sides if only is None or side in only]
    samples: dict[str, list[Sample]] = {side: [] for side in order}
    for round_ in range(settings.rounds):
        # There and back again: whatever slowly changes acts on both sides of a ratio alike.
        for side in order if round_ % 2 == 0 else reversed(order):
            sample = await sides.measure(side)
            samples[side].append(sample)
            shown = [group for group, seconds in sample.cpu.items() if group != "others" and seconds >= 0.02]
            cpu = ", ".join(f"{group} {sample.cpu_us(group):.0f}" for group in shown)
            failed = f", {sample.errors} errors" if sample.errors else ""
            console.print(
                f"round {round_ + 1} {side:24} {sample.rate:10,.0f}/s{failed}   µs of CPU: {cpu}",
                highlight=False,
                soft_wrap=True,
            )
    _show(sides_table(samples), "sides", console)
    others = others_share(samples, os.cpu_count() or 1)
    if others > _OTHERS:
        console.print(
            f"other programs took {others:.0%} of the machine: do not trust these figures", style="bold red"
        )
    return {
        "sides": {side: [sample_to_json(sample) for sample in taken] for side, taken in samples.items()},
        "figures": [figure_to_json(one) for one in measured(samples)],
        "checks": _check(stage, sides, samples, console),
    }


def _check(
    stage: Stage, sides: Sides, samples: Mapping[str, list[Sample]], console: Console
) -> dict[str, Any]:
    """Looks for every acknowledged write of every side."""
    problems: dict[str, str] = {}
    likes = 0
    for side, written in sides.written.items():
        likes += written.likes
        problem = stage.found(sides.stores[side], sides.prefix(side)).problem(written)
        if problem is not None:
            problems[side] = problem
            console.print(f"{side}: {problem}", style="bold red")
    if not problems:
        console.print(
            f"checked {likes:,} acknowledged likes of {len(sides.written)} sides: all in the databases"
        )
    for message, count in sides.messages.most_common(10):
        console.print(f"{count:,} failed calls: {message}", style="red", markup=False)
    errors = {side: count for side, taken in samples.items() if (count := sum(one.errors for one in taken))}
    return {"likes": likes, "sides": len(sides.written), "problems": problems, "errors": errors}


def _show(rows: list[list[str]], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    app()
