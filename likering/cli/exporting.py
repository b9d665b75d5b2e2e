"""``likering export``: writes all likes of a cluster into a CSV or Parquet file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Protocol

import grpc
import typer

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, AdminError, LikeAdmin
from likering.cli.exit_codes import ExitCode, fail
from likering.cli.figures import count
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.transfer.bars import TransferBar
from likering.cli.transfer.blocks import Columns, Unreadable
from likering.cli.transfer.csv_output import CsvOutput
from likering.cli.transfer.formats import Format, FormatOption, format_of
from likering.cli.transfer.parquet_files import ParquetOutput
from likering.cli.transfer.states import ExportState, StateUnusable, load, save

PATIENCE: Final = 120.0
"""Seconds for which an export that broke off is begun again from where it was."""
_PAUSE: Final = 0.5
_SAVE_SECONDS: Final = 1.0


class _Output(Protocol):
    def write(self, user_ids: Sequence[str], post_ids: Sequence[str], like_times: Sequence[int]) -> None: ...
    def close(self) -> None: ...


def export_likes(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What to write: … .csv, … .csv.gz, … .parquet.", dir_okay=False),
    ],
    admin: Admin = DEFAULT_ADMIN,
    format_: FormatOption = None,
    slot: Annotated[
        list[int] | None, typer.Option("--slot", min=0, help="Only this slot. Repeatable. Default: all.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an export was interrupted; not of Parquet.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file, and begin anew.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write all likes with their times into a file, those of a post one after the other, the oldest first.

    Likes and unlikes go on meanwhile: every like that does not change is in the file, once. The file has its name only
    when it is complete; until then it is FILE.partial.
    """
    if path.exists() and not force:
        fail(f"{path} exists; --force replaces it", ExitCode.REFUSED)
    kind = format_of(path, format_)
    slots = sorted(set(slot or []))
    partial, state = path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.export.json")
    if kind is Format.PARQUET and resume:
        fail("a Parquet file cannot be gone on with", ExitCode.USAGE)
    try:
        progress = _begin(state, ExportState(f"{kind}, {slots}"), resume=resume, force=force)
        _run(admin, slots, kind, partial, state, progress)
        partial.replace(path)
        state.unlink(missing_ok=True)
    except (Unreadable, StateUnusable, OSError) as error:
        fail(str(error), ExitCode.FAILED)
    if output is Output.JSON:
        print_json({"likes": progress.likes, "file": str(path)})
    else:
        typer.echo(f"{count(progress.likes)} likes are in {path}")


def _begin(path: Path, new: ExportState, *, resume: bool, force: bool) -> ExportState:
    old = None if force else load(path, ExportState)
    if old is None:
        if resume:
            fail(f"there is no export to go on with: no {path}", ExitCode.USAGE)
        return new
    if not resume:
        fail(
            f"an export into this file was interrupted after {count(old.likes)} likes:"
            " --resume goes on there, --force begins anew",
            ExitCode.REFUSED,
        )
    if old.options != new.options:
        raise StateUnusable(f"{path} is of an export with other options: --force begins anew")
    return old


def _run(
    admin: str, slots: Sequence[int], kind: Format, partial: Path, state: Path, progress: ExportState
) -> None:
    output: _Output
    resumable: CsvOutput | None = None
    if kind is Format.PARQUET:
        output = ParquetOutput(partial, Columns())
    else:
        output = resumable = CsvOutput(partial, Columns(), packed=kind is Format.GZIP, size=progress.size)
    before, saved_at = progress.likes, 0.0

    def keep() -> None:
        if resumable is not None:
            resumable.sync()
            progress.size = resumable.size
            save(state, progress)

    try:
        with LikeAdmin(admin) as service, TransferBar("export") as bar:
            for page in _pages(service, slots, progress, bar):
                output.write(page.user_ids, page.post_ids, page.like_times)
                progress.likes += len(page.user_ids)
                progress.cursor = page.cursor
                bar.update(page.slots_done, page.slots_total, progress.likes - before)
                if time.monotonic() - saved_at > _SAVE_SECONDS:
                    keep()
                    saved_at = time.monotonic()
    except AdminError as error:
        keep()
        fail(f"{error.message}. {_interrupted(resumable)}", error.exit_code)
    except KeyboardInterrupt:
        keep()
        fail(f"interrupted. {_interrupted(resumable)}", ExitCode.FAILED)
    finally:
        output.close()


def _interrupted(resumable: CsvOutput | None) -> str:
    return "Begin again, please" if resumable is None else "--resume goes on"


def _pages(
    service: LikeAdmin, slots: Sequence[int], progress: ExportState, bar: TransferBar
) -> Iterator[api.ExportLikesResponse]:
    """All pages from the progress' cursor on; what breaks off is asked for again."""
    until = time.monotonic() + PATIENCE
    told = False
    while True:
        request = api.ExportLikesRequest(slots=slots, cursor=progress.cursor)
        try:
            for page in service.stream(service.stub.ExportLikes, request):
                until, told = time.monotonic() + PATIENCE, False
                yield page
        except AdminError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                raise
            if not told:
                bar.say(f"{error.message}; trying again")
                told = True
            time.sleep(_PAUSE)
        else:
            return
