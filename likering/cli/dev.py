"""``likering dev``: a whole cluster on this machine, to develop against and to break."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from likering.cli.exit_codes import ExitCode, fail
from likering.cli.output import Output, OutputOption, print_json
from likering.dev import layout
from likering.dev.authority import ADMIN_AUDIENCE, Authority
from likering.dev.cluster import EmbeddedCluster
from likering.dev.control import ask
from likering.dev.errors import DevError
from likering.dev.supervisor import Supervisor
from likering.security.roles import Role

app = typer.Typer(help="Run a whole cluster on this machine.", no_args_is_help=True)

Data = Annotated[
    Path,
    typer.Option(
        "--data", envvar="LIKERING_DATA", help="The directory that keeps the cluster.", show_default=True
    ),
]
NodeName = Annotated[str, typer.Argument(metavar="NAME", help="The node's name.")]
_DATA = Path(".likering")
_NODES = 3


class PartName(StrEnum):
    """The parts of a node."""

    NODE = "node"
    POSTGRES = "postgres"
    VALKEY = "valkey"


@app.command()
def up(
    once: Annotated[bool, typer.Option("--once", help="Stop after the README's example.")] = False,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Shard nodes of a new cluster.", show_default=str(_NODES)),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The router's port; 0 takes a free one.")
    ] = 50051,
    secure: Annotated[
        bool,
        typer.Option(
            "--secure", help="With TLS, certificates, tokens and roles, made in the data directory."
        ),
    ] = False,
    data: Data = _DATA,
) -> None:
    """Start a cluster (the first time: make it), run the README's example, and serve until Ctrl-C."""
    with _sentences():
        kept = layout.load(data)
        if kept and nodes not in (None, len(kept.nodes)):
            raise DevError(
                f"the cluster in {data} has {len(kept.nodes)} nodes ({', '.join(kept.nodes)}); add one with"
                " `likering dev add-node`, or take another --data directory"
            )
        cluster = EmbeddedCluster(data, nodes=nodes or _NODES, port=port, secure=secure, progress=_say)
        Supervisor(cluster, _say).run(once=once)


@app.command()
def status(
    output: OutputOption = Output.TABLE,
    data: Data = _DATA,
) -> None:
    """Show the parts of the running cluster. JSON also has the connection strings, with their passwords."""
    with _sentences():
        answer = ask(data, "status")
    if output is Output.JSON:
        print_json(answer)
    else:
        _print(answer)


@app.command()
def env(data: Data = _DATA) -> None:
    """Print settings for `eval`, so that `likering ring`, `node`, `cluster` and `bench` find the running cluster."""
    with _sentences():
        answer = ask(data, "status")
    typer.echo(f"export LIKERING_ADDRESS='{answer['router']['address']}'")
    typer.echo(f"export LIKERING_ADMIN='{answer['router']['admin_address']}'")
    typer.echo(f"export LIKERING_TOPOLOGY='{answer['topology']['dsn']}'")
    if answer["tls"]:
        for name, path in answer["tls"]["operator"].items():
            typer.echo(f"export LIKERING_TLS_{name.upper()}='{path}'")


@app.command()
def token(
    subject: Annotated[str, typer.Argument(metavar="USER", help="The user whose likes it may change.")],
    operator: Annotated[
        bool, typer.Option("--operator", help="For the port of operators instead, in the name of USER.")
    ] = False,
    data: Data = _DATA,
) -> None:
    """Print a token, good for an hour, for a cluster that was started with --secure."""
    kept = layout.load(data)
    if kept is None or not kept.tls.is_dir():
        fail(f"no cluster in {data} was started with --secure", ExitCode.REFUSED)
    authority = Authority(kept.tls)
    if operator:
        typer.echo(authority.token(subject, [Role.OPERATOR], audience=ADMIN_AUDIENCE))
    else:
        typer.echo(authority.token(subject))


@app.command()
def add_node(name: NodeName, data: Data = _DATA) -> None:
    """Start one more node, or one that was stopped. A new one owns no slots yet."""
    with _sentences():
        ask(data, "add-node", name=name)
    typer.echo(f"node {name} serves")


@app.command()
def stop_node(name: NodeName, data: Data = _DATA) -> None:
    """Stop a node with its Postgres and Valkey; they stay down until `add-node` or the next `up`."""
    with _sentences():
        ask(data, "stop-node", name=name)
    typer.echo(f"node {name} has stopped")


@app.command()
def kill(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A node, or: router, topology.")],
    part: Annotated[PartName, typer.Option(help="Which part of the node.")] = PartName.NODE,
    data: Data = _DATA,
) -> None:
    """Kill a part with SIGKILL. It is started again."""
    with _sentences():
        ask(data, "kill", name=name, part=part)
    typer.echo(f"killed {name if name in layout.RESERVED_NAMES else f'{part} of {name}'}")


@app.command()
def down(data: Data = _DATA) -> None:
    """Stop the running cluster; its data stays."""
    with _sentences():
        ask(data, "down", until_gone=True)
    typer.echo("the cluster has stopped")


def _say(line: str) -> None:
    # Nobody may be reading any more; that is no reason to leave the cluster alone.
    with contextlib.suppress(BrokenPipeError):
        typer.echo(line)


def _print(answer: dict[str, Any]) -> None:
    table = Table("", "part", "state", "port", "process", "restarts")
    rows = [("router", "router", answer["router"]), ("topology", "postgres", answer["topology"])]
    rows += [(node["name"], kind, part) for node in answer["nodes"] for kind, part in node["parts"].items()]
    for name, kind, part in rows:
        table.add_row(
            name, kind, part["state"], str(part["port"]), str(part["pid"] or ""), str(part["restarts"])
        )
    console = Console()
    router = answer["router"]
    console.print(
        f"router on {router['address']}, for operators on {router['admin_address']},"
        f" data in {answer['directory']}",
        soft_wrap=True,
    )
    console.print(table)


@contextmanager
def _sentences() -> Iterator[None]:
    """End the command with a sentence and exit code 1 instead of an error."""
    try:
        yield
    # OSError: a full disk or a directory without permission, said by the system as clearly as we could.
    except (DevError, OSError) as error:
        typer.echo(f"likering: {error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from None
