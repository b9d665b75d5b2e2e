"""``likering import``: brings likes from a CSV or Parquet file into a cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from likering.cli.admin import DEFAULT_ADMIN, Admin, AdminError, LikeAdmin
from likering.cli.exit_codes import ExitCode, fail
from likering.cli.figures import count
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.transfer.bars import TransferBar
from likering.cli.transfer.blocks import Columns, LikeFile, Position, Unreadable
from likering.cli.transfer.csv_input import CsvLikes
from likering.cli.transfer.formats import Format, FormatOption, format_of
from likering.cli.transfer.loading import Loader
from likering.cli.transfer.parquet_files import ParquetLikes
from likering.cli.transfer.rejects import Rejects
from likering.cli.transfer.states import ImportState, StateUnusable, fingerprint, load, save
from likering.cli.transfer.times import TimeUnit, parser


def import_likes(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="CSV, packed with gzip or not, or Parquet.", dir_okay=False, exists=True
        ),
    ],
    admin: Admin = DEFAULT_ADMIN,
    format_: FormatOption = None,
    user_column: Annotated[str, typer.Option(help="The column of the users' ids.")] = Columns().user,
    post_column: Annotated[str, typer.Option(help="The column of the posts' ids.")] = Columns().post,
    time_column: Annotated[
        str, typer.Option(help="The column of the times; a file need not have one.")
    ] = Columns().time,
    time_unit: Annotated[
        TimeUnit | None,
        typer.Option(help="Of times that are numbers. Others are RFC 3339, UTC unless they say else."),
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Of CSV.")] = ",",
    rejects: Annotated[
        Path | None, typer.Option(help="Where bad lines go. Default: FILE.rejects.csv", dir_okay=False)
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Where it is kept how far it is. Default: FILE.import.json", dir_okay=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an import was interrupted.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew. Likes that are in already stay as they are.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring likes in from a file, with their times. Counts follow from the likes; nothing is taken twice.

    A user's like or unlike that the cluster knows already is left as it is. An import that was interrupted, however, is
    gone on with by --resume. Exit code 1: some lines were rejected, or it did not get to the end.
    """
    rejects = rejects or path.with_name(f"{path.name}.rejects.csv")
    state = state or path.with_name(f"{path.name}.import.json")
    if len(delimiter) != 1:
        fail("--delimiter is one character", ExitCode.USAGE)
    columns = Columns(user_column, post_column, time_column)
    kind = format_of(path, format_)
    options = f"{kind}, {columns}, {time_unit}, {delimiter!r}"
    try:
        progress = _begin(state, ImportState(fingerprint(path), options), resume=resume, restart=restart)
        file: LikeFile
        if kind is Format.PARQUET:
            file = ParquetLikes(path, columns, time_unit)
        else:
            file = CsvLikes(path, columns, parser(time_unit), delimiter=delimiter)
        with closing(file):
            _run(file, admin, progress, state, Rejects(rejects, progress.rejects_size))
    except (Unreadable, StateUnusable, OSError) as error:
        fail(str(error), ExitCode.FAILED)
    state.unlink(missing_ok=True)
    if output is Output.JSON:
        print_json(
            {
                "inserted": progress.inserted,
                "existing": progress.existing,
                "rejected": progress.rejected,
                "rejects": str(rejects) if progress.rejected else None,
            }
        )
    else:
        typer.echo(
            f"{count(progress.inserted)} likes are in, {count(progress.existing)} were known already,"
            f" {count(progress.rejected)} lines were rejected"
        )
    if progress.rejected:
        fail(f"{count(progress.rejected)} lines are in {rejects}, with reasons", ExitCode.FAILED)


def _begin(path: Path, new: ImportState, *, resume: bool, restart: bool) -> ImportState:
    old = None if restart else load(path, ImportState)
    if old is None:
        if resume:
            fail(f"there is no import to go on with: no {path}", ExitCode.USAGE)
        return new
    if not resume:
        fail(
            f"an import of this file was interrupted after line {count(old.line)}:"
            " --resume goes on there, --restart begins anew",
            ExitCode.REFUSED,
        )
    if (old.source, old.options) != (new.source, new.options):
        raise StateUnusable(f"{path} is of another file, or of other options: --restart begins anew")
    return old


def _run(file: LikeFile, admin: str, progress: ImportState, state: Path, rejects: Rejects) -> None:
    start = Position(progress.offset, progress.line) if progress.offset else None
    likes = 0
    save(state, progress)
    with (
        closing(rejects),
        TransferBar("import") as bar,
        LikeAdmin(admin) as service,
        Loader(lambda request: service.call(service.stub.ImportLikes, request), told=bar.say) as loader,
    ):
        try:
            for loaded in loader.load(file.blocks(start)):
                if loaded.rejects:
                    rejects.add(loaded.rejects)
                progress.offset, progress.line = loaded.block.end
                progress.inserted += loaded.inserted
                progress.existing += loaded.existing
                progress.rejected += len(loaded.rejects)
                progress.rejects_size = rejects.size
                save(state, progress)
                likes += len(loaded.block)
                bar.update(file.taken, file.size, likes)
        except AdminError as error:
            fail(f"{error.message}. {_interrupted(progress)}", error.exit_code)
        except KeyboardInterrupt:
            fail(f"interrupted. {_interrupted(progress)}", ExitCode.FAILED)


def _interrupted(progress: ImportState) -> str:
    return f"All up to line {count(progress.line)} is in; --resume goes on"
