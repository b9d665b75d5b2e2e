"""The ``likering`` command: puts its groups of commands together."""

from __future__ import annotations

import typer

from likering.cli import (
    bench,
    cluster,
    counts,
    dev,
    exporting,
    importing,
    node,
    posts,
    ring,
    simulate,
    sizing,
    users,
)

app = typer.Typer(
    help="likering: a like service on a ring of Postgres shards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(dev.app, name="dev")
app.add_typer(cluster.app, name="cluster")
app.add_typer(ring.app, name="ring")
app.add_typer(node.app, name="node")
app.add_typer(counts.app, name="counts")
app.add_typer(posts.app, name="posts")
app.add_typer(users.app, name="users")
app.command("import")(importing.import_likes)
app.command("export")(exporting.export_likes)
app.add_typer(bench.app, name="bench")
app.command("plan")(sizing.plan_cluster)
app.command("simulate")(simulate.simulate_ring)


def main() -> None:
    """The entry point of ``likering``."""
    app(prog_name="likering")


if __name__ == "__main__":
    main()
