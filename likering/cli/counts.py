"""``likering counts``: prove that each count is the number of its post's likes, and mend those that are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, LikeAdmin, likes_at
from likering.cli.confirm import Yes, confirm
from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.figures import count
from likering.cli.messages import plain
from likering.cli.output import Output, OutputOption, print_json

app = typer.Typer(help="Prove the counts of posts, and mend them.", no_args_is_help=True)

DEFAULT_RATE = 50_000
"""Rows a second: a small part of what a node can read."""

Rate = Annotated[
    int,
    typer.Option("--rate", min=0, max=2**31 - 1, help="Likes and posts to look at in a second; 0: no limit."),
]
Slots = Annotated[
    list[int] | None, typer.Option("--slot", min=0, help="Only this slot. Repeatable. Default: all.")
]
R = TypeVar("R", api.VerifyCountsResponse, api.RepairCountsResponse)


class _Seen:
    """What a run has told."""

    def __init__(self) -> None:
        self.drifts: list[api.CountDrift] = []
        self.repairs: list[api.CountRepair] = []
        self.unverified: list[api.UnverifiedSlot] = []
        self.progress = api.CountsProgress()

    def json(self, **found: Sequence[Any]) -> dict[str, Any]:
        return {
            **{name: [plain(one) for one in messages] for name, messages in found.items()},
            "unverified": [plain(slot) for slot in self.unverified],
            "progress": plain(self.progress),
        }

    def summary(self) -> str:
        return (
            f"{count(self.progress.posts)} posts with {count(self.progress.likes)} likes in"
            f" {self.progress.slots_done} slots; {count(self.progress.drifted)} wrong"
        )


@app.command()
def verify(
    admin: Admin = DEFAULT_ADMIN,
    slot: Slots = None,
    rate: Rate = DEFAULT_RATE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare the count of each post with the number of its likes. Likes go on meanwhile and explain nothing.

    Exit code 1: some count is wrong, or some slot could not be looked at.
    """
    with likes_at(admin) as likes:
        seen = _verify(likes, slot or [], rate)
    if output is Output.JSON:
        print_json(seen.json(drifts=seen.drifts))
    else:
        if seen.drifts:
            _show(seen.drifts)
        typer.echo(seen.summary())
    _end(seen)
    if seen.drifts:
        fail("some counts are wrong; likering counts repair mends them", ExitCode.FAILED)


@app.command()
def repair(
    admin: Admin = DEFAULT_ADMIN,
    slot: Slots = None,
    rate: Rate = DEFAULT_RATE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be mended.")] = False,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look for wrong counts, show them, and after a question make each the number of its post's likes.

    Exit code 1: some slot could not be looked at, or some count is still wrong; 3: no count is wrong.
    """
    with likes_at(admin) as likes:
        seen = _repair(likes, slot or [], rate, dry_run=True)
        wrong = [repair.drift for repair in seen.repairs]
        if wrong and not dry_run:
            if output is Output.TABLE:
                _show(wrong)
            confirm(f"Mend {'this count' if len(wrong) == 1 else f'these {len(wrong)} counts'}?", yes)
            unverified = seen.unverified
            seen = _repair(likes, sorted({drift.slot for drift in wrong}), rate, dry_run=False)
            seen.unverified.extend(one for one in unverified if one.slot not in {w.slot for w in wrong})
    mended = [repair for repair in seen.repairs if repair.HasField("count")]
    if output is Output.JSON:
        print_json(seen.json(repairs=seen.repairs))
    elif dry_run and wrong:
        _show(wrong)
    elif mended:
        _show_mended(mended)
    _end(seen)
    if not wrong:
        nothing_to_do("No count is wrong.")
    if not dry_run and len(mended) < len(seen.repairs):
        fail("some counts were left: their posts are being purged, or changed meanwhile", ExitCode.FAILED)


def _verify(likes: LikeAdmin, slots: Sequence[int], rate: int) -> _Seen:
    seen = _Seen()
    request = api.VerifyCountsRequest(slots=slots, rows_per_second=rate)
    for response in _followed(likes.stream(likes.stub.VerifyCounts, request), seen):
        seen.drifts.extend(response.drifts)
    return seen


def _repair(likes: LikeAdmin, slots: Sequence[int], rate: int, *, dry_run: bool) -> _Seen:
    seen = _Seen()
    request = api.RepairCountsRequest(slots=slots, rows_per_second=rate, dry_run=dry_run)
    for response in _followed(likes.stream(likes.stub.RepairCounts, request), seen):
        seen.repairs.extend(response.repairs)
    return seen


def _followed(responses: Iterator[R], seen: _Seen) -> Iterator[R]:
    """The responses, and meanwhile a bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("slots"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("slots", total=None)
        for response in responses:
            seen.progress = response.progress
            seen.unverified.extend(response.unverified)
            bar.update(task, completed=response.progress.slots_done, total=response.progress.slots_total)
            yield response


def _show(drifts: Iterable[api.CountDrift]) -> None:
    numbers = ("slot", "count", "likes", "version")
    table = Table("post", "node", *(Column(name, justify="right") for name in numbers))
    for one in drifts:
        table.add_row(
            escape(one.post_id),
            one.node,
            str(one.slot),
            f"{one.stored_count:,}",
            f"{one.counted_likes:,}",
            str(one.version),
        )
    Console().print(table)


def _show_mended(repairs: Iterable[api.CountRepair]) -> None:
    table = Table("mended", "node", *(Column(name, justify="right") for name in ("was", "is", "version")))
    for one in repairs:
        table.add_row(
            escape(one.drift.post_id),
            one.drift.node,
            f"{one.drift.stored_count:,}",
            f"{one.count:,}",
            str(one.version),
        )
    Console().print(table)


def _end(seen: _Seen) -> None:
    """Ends the command if it could not look everywhere."""
    if not seen.unverified:
        return
    for one in seen.unverified:
        typer.echo(f"slot {one.slot} was not looked at: {one.why}", err=True)
    fail(f"{len(seen.unverified)} slots were not looked at; try again later", ExitCode.FAILED)
