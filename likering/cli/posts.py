"""``likering posts``: the hot ones, and erasing all likes of one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, LikeAdmin, likes_at
from likering.cli.confirm import Yes, confirm
from likering.cli.exit_codes import nothing_to_do
from likering.cli.figures import count
from likering.cli.messages import plain
from likering.cli.output import Output, OutputOption, print_json

app = typer.Typer(help="Find hot posts, and erase the likes of a post.", no_args_is_help=True)


class By(StrEnum):
    """What makes a post hot."""

    WRITES = "writes"
    READS = "reads"


_ORDERS = {By.WRITES: api.HOT_POSTS_ORDER_WRITES, By.READS: api.HOT_POSTS_ORDER_READS}


@app.command()
def hot(
    admin: Admin = DEFAULT_ADMIN,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    by: Annotated[By, typer.Option("--by", help="Writes are likes and unlikes.")] = By.WRITES,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the posts that were written to, or read, most often in the last minute, over all nodes."""
    with likes_at(admin) as likes:
        request = api.ListHotPostsRequest(limit=limit, order=_ORDERS[by])
        found = likes.call(likes.stub.ListHotPosts, request)
    if output is Output.JSON:
        print_json(plain(found))
    else:
        _show_hot(found)
    for node in found.unreachable:
        typer.echo(f"node {node} did not answer: its posts are missing", err=True)


@app.command()
def purge(
    post: Annotated[str, typer.Argument(metavar="POST", help="The post's id.")],
    admin: Admin = DEFAULT_ADMIN,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would be erased.")] = False,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Erase all that is stored of who liked a post. It takes no likes until that is done.

    When it is interrupted, repeat it: the post takes no likes until then. Exit code 3: there was nothing to erase.
    """
    with likes_at(admin) as likes:
        (estimate,) = likes.stream(likes.stub.PurgePost, api.PurgePostRequest(post_id=post, dry_run=True))
        if dry_run:
            if output is Output.JSON:
                print_json({"likes": estimate.likes, "edges": estimate.edges})
            else:
                typer.echo(_estimated(estimate))
            return
        if estimate.edges:
            confirm(f"{_estimated(estimate)} Erase them for good?", yes)
        # Also when there is nothing: one that was interrupted at its very end still keeps likes away.
        receipts = _purge(likes, post)
    if output is Output.JSON:
        print_json({"receipts": [plain(receipt) for receipt in receipts]})
    elif estimate.edges:
        _show_receipts(receipts)
    if not estimate.edges:
        nothing_to_do("There was nothing to erase.")


def _purge(likes: LikeAdmin, post: str) -> list[api.PurgeReceipt]:
    receipts: list[api.PurgeReceipt] = []
    told = ""
    for response in likes.stream(likes.stub.PurgePost, api.PurgePostRequest(post_id=post)):
        receipts.extend(response.receipts)
        if response.waits_for and response.waits_for != told:
            told = response.waits_for
            typer.echo(f"waits: {told}", err=True)
    return receipts


def _estimated(estimate: api.PurgePostResponse) -> str:
    return f"{count(estimate.likes)} likes and {count(estimate.edges - estimate.likes)} remembered unlikes."


def _show_hot(found: api.ListHotPostsResponse) -> None:
    table = Table("post", "node", *(Column(name, justify="right") for name in ("slot", "writes", "reads")))
    for post in found.posts:
        table.add_row(
            escape(post.post_id),
            post.node,
            str(post.slot),
            _at_least(post.writes, post.writes_missed),
            _at_least(post.reads, post.reads_missed),
        )
    Console().print(table)
    Console().print(f"in the last {found.seconds:.0f} s")


def _at_least(number: int, missed: int) -> str:
    return f"{number:,} to {number + missed:,}" if missed else f"{number:,}"


def _show_receipts(receipts: Iterable[api.PurgeReceipt]) -> None:
    numbers = ("slot", "erased", "version")
    table = Table("post", "node", *(Column(name, justify="right") for name in numbers), "time")
    for one in receipts:
        table.add_row(
            escape(one.post_id),
            one.node,
            str(one.slot),
            f"{one.edges_erased:,}",
            str(one.version),
            one.purge_time.ToJsonString() if one.HasField("purge_time") else "",
        )
    Console().print(table)
