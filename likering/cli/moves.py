"""The commands of ``likering ring`` that look after moves: pause, limits, cancel, revert-slot, verify."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli import live
from likering.cli.admin import DEFAULT_ADMIN, Admin, ring_at
from likering.cli.confirm import Yes, confirm
from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.figures import duration
from likering.cli.messages import plain
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.report import state_name
from likering.cli.resize import Timeout
from likering.cli.verification import wait_verified


def pause(admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """Let no move begin or freeze its slot from now on. What is frozen already is finished.

    Exit code 3: moves are paused already.
    """
    _set_paused(admin, True, output)


def resume(admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """End a pause. Exit code 3: moves are not paused."""
    _set_paused(admin, False, output)


def _set_paused(admin: str, paused: bool, output: Output) -> None:
    with ring_at(admin) as ring:
        before = ring.call(ring.stub.ListMoves, api.ListMovesRequest()).limits
        if before.paused is paused:
            nothing_to_do("Moves are paused already." if paused else "Moves are not paused.")
        limits = (
            ring.call(ring.stub.PauseMoves, api.PauseMovesRequest()).limits
            if paused
            else ring.call(ring.stub.ResumeMoves, api.ResumeMovesRequest()).limits
        )
    _show_limits(limits, output)


def limits(
    admin: Admin = DEFAULT_ADMIN,
    slots_at_once: Annotated[
        int | None, typer.Option(min=1, max=64, help="Moves that a node takes part in at once.")
    ] = None,
    rows_per_second: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Rows that a node copies a second; 0: no limit.")
    ] = None,
    pause_budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31 - 1,
            metavar="MILLISECONDS",
            help="The longest freeze before it is given up and tried again later.",
        ),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            metavar="SECONDS",
            help="How long a source keeps its copy of a verified slot.",
        ),
    ] = None,
    verify_rows_per_second: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Posts and likes that each node looks at in a second to prove its counts; 0: none.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change limits of what nodes do in the background, at once and for moves under way too.

    Without options, show them.
    """
    changes = {
        "slots_at_once": slots_at_once,
        "rows_per_second": rows_per_second,
        "pause_budget_ms": pause_budget,
        "grace_seconds": grace,
        "verify_rows_per_second": verify_rows_per_second,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    with ring_at(admin) as ring:
        if given:
            newest = ring.call(ring.stub.SetMoveLimits, api.SetMoveLimitsRequest(**given)).limits
        else:
            newest = ring.call(ring.stub.ListMoves, api.ListMovesRequest()).limits
    _show_limits(newest, output)


def _show_limits(newest: api.MoveLimits, output: Output) -> None:
    if output is Output.JSON:
        print_json(plain(newest))
    else:
        Console().print(live.limits_line(newest), soft_wrap=True)


def cancel(
    moves: Annotated[
        list[int] | None, typer.Argument(min=1, metavar="[MOVE]…", help="Their numbers.")
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    resize: Annotated[int, typer.Option(min=0, help="All moves of this resize.")] = 0,
    lost: Annotated[
        str,
        typer.Option(
            metavar="NODE", help="All that need this node, which is gone for good with its database."
        ),
    ] = "",
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Cancel moves. Those past their commit go on: what they have done is undone by another move.

    With --lost, also those past their commit end: slots that their targets serve stay there, without a comparison of
    both copies; what the lost node was about to take up is its source's again. Restore the node if you can: then
    nothing of this is needed.

    Exit code 3: the lost node takes part in no move; 4: none of the moves could be cancelled, or the node is not lost.
    """
    if lost and (moves or resize):
        raise typer.BadParameter("ends all moves of the node: name no others", param_hint="--lost")
    if not moves and not resize and not lost:
        raise typer.BadParameter("name the moves, or give --resize or --lost", param_hint="MOVE")
    confirm(_question(resize, lost), yes)
    with ring_at(admin) as ring:
        request = api.CancelMovesRequest(moves=moves or (), resize=resize, lost_node=lost)
        now = ring.call(ring.stub.CancelMoves, request).moves
    if output is Output.JSON:
        print_json([plain(move) for move in now])
    if lost:
        if not now:
            nothing_to_do(f"Node {lost} takes part in no move.")
        if output is not Output.JSON:
            typer.echo(live.moves_line(now))
        return
    cancelled = [move for move in now if move.state == api.MOVE_STATE_CANCELLED]
    if output is not Output.JSON:
        typer.echo(f"{len(cancelled)} of {len(now)} moves are cancelled.")
    if not cancelled:
        fail("all of the moves are past their commit, and go on", ExitCode.REFUSED)


def _question(resize: int, lost: str) -> str:
    if lost:
        return f"End all moves that need node {lost}? Its database must be gone for good."
    return "Cancel all moves of the resize?" if resize else "Cancel these moves?"


def revert_slot(
    slot: Annotated[int, typer.Argument(min=0, metavar="SLOT", help="The slot.")],
    admin: Admin = DEFAULT_ADMIN,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a slot back to its source when its target is gone for good between commit and activation.

    Nothing is lost: the target has not accepted a write yet. Exit code 4: the slot's move is not there.
    """
    confirm(f"Give slot {slot} back to the node that it was moving from?", yes)
    with ring_at(admin) as ring:
        move = ring.call(ring.stub.RevertSlot, api.RevertSlotRequest(slot=slot)).move
    if output is Output.JSON:
        print_json(plain(move))
    else:
        typer.echo(f"Slot {slot} is node {move.source}'s again.")


def verify(
    admin: Admin = DEFAULT_ADMIN, timeout: Timeout = None, output: OutputOption = Output.TABLE
) -> None:
    """Wait until both copies of every slot that has been handed over were compared.

    Exit code 3: no slot waits for that; 5: not all within --timeout.
    """
    with ring_at(admin) as ring:
        moves, timed_out = wait_verified(ring, timeout)
    if not moves:
        nothing_to_do("No slot waits to be verified.")
    if output is Output.JSON:
        print_json([plain(move) for move in moves])
    else:
        _show_moves(moves)
    if timed_out:
        fail(f"not all were verified within {timeout:g} s", ExitCode.TIMED_OUT)


def _show_moves(moves: Iterable[api.Move]) -> None:
    table = Table(Column("slot", justify="right"), "from", "to", "state", "pause", "")
    for move in moves:
        pause = duration(move.pause) if move.pause else ""
        why = escape(live.waits_for(move))
        table.add_row(str(move.slot), move.source, move.target, state_name(move.state), pause, why)
    Console().print(table)
