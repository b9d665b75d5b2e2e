"""``likering users``: erasing a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, LikeAdmin, likes_at
from likering.cli.confirm import Yes, confirm
from likering.cli.exit_codes import nothing_to_do
from likering.cli.figures import count
from likering.cli.messages import plain
from likering.cli.output import Output, OutputOption, print_json

app = typer.Typer(help="Erase a user.", no_args_is_help=True)

DEFAULT_RATE = 20_000
"""Posts a second."""

_PHASES = {
    api.USER_PURGE_PHASE_COUNTING: "counting",
    api.USER_PURGE_PHASE_MARKING: "marking slots",
    api.USER_PURGE_PHASE_ENDING_LIKES: "ending likes",
    api.USER_PURGE_PHASE_ERASING: "erasing rows",
    api.USER_PURGE_PHASE_RELEASING: "releasing slots",
}


@app.command()
def purge(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    admin: Admin = DEFAULT_ADMIN,
    rate: Annotated[
        int, typer.Option("--rate", min=0, max=2**31 - 1, help="Posts to look at in a second; 0: no limit.")
    ] = DEFAULT_RATE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would be erased.")] = False,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Erase all likes of a user, and what is remembered of them. No likes of the user are taken until that is done.

    Goes over the posts of all slots. When it is interrupted, repeat it: no likes of the user are taken until then.
    Exit code 3: there was nothing to erase.
    """
    with likes_at(admin) as likes:
        estimates = _run(
            likes, api.PurgeUserRequest(user_id=user, dry_run=True, posts_per_second=rate)
        ).estimates
        there_is_any = any(one.edges or one.list_rows for one in estimates)
        if dry_run:
            if output is Output.JSON:
                print_json({"estimates": [plain(one) for one in estimates]})
            else:
                _show_estimates(estimates)
            return
        if there_is_any:
            confirm(f"{_estimated(estimates)} Erase them for good?", yes)
        # Also when there is nothing: one that was interrupted at its very end still keeps likes away.
        receipts = _run(likes, api.PurgeUserRequest(user_id=user, posts_per_second=rate)).receipts
    if output is Output.JSON:
        print_json({"receipts": [plain(receipt) for receipt in receipts]})
    elif there_is_any:
        _show_receipts(receipts)
    if not there_is_any:
        nothing_to_do("There was nothing to erase.")


def _run(likes: LikeAdmin, request: api.PurgeUserRequest) -> api.PurgeUserResponse:
    """The last response. How far it is goes to stderr."""
    response = api.PurgeUserResponse()
    told = ""
    for response in likes.stream(likes.stub.PurgeUser, request):
        done = f"{response.slots_done} of {response.slots_total} slots"
        now = f"waits: {response.waits_for}" if response.waits_for else f"{_PHASES[response.phase]}: {done}"
        if now != told and not response.receipts and not response.estimates:
            told = now
            typer.echo(now, err=True)
    return response


def _estimated(estimates: Sequence[api.UserPurgeEstimate]) -> str:
    likes = sum(one.likes for one in estimates)
    edges = sum(one.edges for one in estimates)
    listed = sum(one.list_rows for one in estimates)
    return (
        f"{count(likes)} likes and {count(edges - likes)} remembered unlikes;"
        f" {count(listed)} rows of what the user likes."
    )


def _show_estimates(estimates: Sequence[api.UserPurgeEstimate]) -> None:
    numbers = ("slots", "likes", "unlikes", "rows of the user")
    table = Table("node", *(Column(name, justify="right") for name in numbers))
    for one in estimates:
        table.add_row(
            one.node, str(one.slots), f"{one.likes:,}", f"{one.edges - one.likes:,}", f"{one.list_rows:,}"
        )
    Console().print(table)
    typer.echo(_estimated(estimates))


def _show_receipts(receipts: Sequence[api.UserPurgeReceipt]) -> None:
    numbers = ("slots", "erased", "rows of the user")
    table = Table("node", *(Column(name, justify="right") for name in numbers), "time")
    for one in receipts:
        table.add_row(
            one.node,
            str(one.slots),
            f"{one.edges_erased:,}",
            f"{one.list_rows_erased:,}",
            one.purge_time.ToJsonString(),
        )
    Console().print(table)
