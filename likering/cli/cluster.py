"""``likering cluster``: make a cluster, give its slots their first owners, show who owns what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Column, Table

from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.output import Output, OutputOption
from likering.errors import LikeringError, TopologyChanged
from likering.postgres.dsn import check_dsn
from likering.postgres.roles import Database, statements
from likering.ring.hashing import check_slot_count
from likering.ring.placement import place
from likering.ring.plan import balance, moves_between
from likering.ring.topology import NodeState, Topology
from likering.security.passwords import READABLE, has_password
from likering.topology.postgres import PostgresTopologyStore, create_cluster, upgrade_cluster
from likering.topology.store import ClusterExists

app = typer.Typer(help="Make a cluster, give its slots to nodes, show who owns what.", no_args_is_help=True)

_NUMBERS = ("weight", "generation", "slots", "share")


def _check_dsn(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    try:
        check_dsn(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    source = context.get_parameter_source(str(parameter.name))
    if has_password(value) and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(f"{READABLE}: use LIKERING_TOPOLOGY, or passfile=… in its place")
    return value


def _check_slots(value: int) -> int:
    try:
        check_slot_count(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


Dsn = Annotated[
    str,
    typer.Option(
        "--topology",
        envvar="LIKERING_TOPOLOGY",
        callback=_check_dsn,
        help="The topology database: a Postgres connection string.",
    ),
]


@app.command()
def init(
    topology: Dsn,
    slots: Annotated[
        int,
        typer.Option(
            callback=_check_slots,
            help="How many slots posts are spread over: a power of two up to 16384, 32 to 64 for each node foreseen."
            " It never changes.",
        ),
    ] = 64,
) -> None:
    """Make a cluster in an empty topology database, and print its id.

    Exit code 4: the database holds a cluster already.
    """
    with _exit_codes():
        typer.echo(asyncio.run(create_cluster(topology, slots)))


@app.command()
def assign(
    topology: Dsn,
    wait_nodes: Annotated[
        int, typer.Option(min=1, help="Wait until that many nodes are registered and active.")
    ] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="How long to wait for them, in seconds.")] = 30.0,
) -> None:
    """Give every slot without an owner to one of the registered nodes, each node as many as its weight asks for.

    Slots that have an owner stay where they are. Exit code 3: there was no slot without an owner; 5: too few nodes
    within the timeout.
    """
    with _exit_codes():
        newest = asyncio.run(_assign(topology, wait_nodes, timeout))
    _print(newest)


@app.command()
def show(
    topology: Dsn,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the cluster, its nodes and how many slots each one owns."""
    with _exit_codes():
        newest = asyncio.run(_get(topology))
    if output is Output.JSON:
        typer.echo(newest.to_json())
    else:
        _print(newest)


@app.command()
def upgrade(topology: Dsn) -> None:
    """Bring the topology database of an existing cluster up to what this version of likering needs.

    Before its routers and nodes. Exit code 3: it is up to date already.
    """
    with _exit_codes():
        applied = asyncio.run(upgrade_cluster(topology))
    if not applied:
        nothing_to_do("The topology database is up to date already.")
    typer.echo(f"applied {', '.join(applied)}")


@app.command()
def roles(
    database: Annotated[Database, typer.Argument(help="What the roles are for.")],
) -> None:
    """Print SQL that makes Postgres roles with few rights, to be run by a superuser in the database."""
    typer.echo(statements(database), nl=False)


@app.command("await-drained")
def await_drained(
    topology: Dsn,
    node: Annotated[str, typer.Option(envvar="LIKERING_NODE_NAME", help="The node's name.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="How long to wait, in seconds.")] = 30.0,
) -> None:
    """Wait, if a node is being drained, until it owns no slot: for what is to run before its process is stopped.

    A node that is not draining is about to be started again, so nothing is waited for. Exit code 5: it still owns slots
    after the timeout.
    """
    with _exit_codes():
        asyncio.run(_await_drained(topology, node, timeout))


async def _await_drained(dsn: str, name: str, timeout: float) -> None:
    left = 0
    async with _store(dsn) as store:
        try:
            async with asyncio.timeout(timeout), aclosing(store.changes()) as changes:
                async for _ in changes:
                    topology = await store.get()
                    node = topology.nodes.get(name)
                    if node is None or node.state is not NodeState.DRAINING:
                        return
                    left = len(topology.slots_of(name))
                    if not left:
                        return
        except TimeoutError:
            fail(f"Node {name} still owns {left} slots after {timeout:g} s", ExitCode.TIMED_OUT)


async def _get(dsn: str) -> Topology:
    async with _store(dsn) as store:
        return await store.get()


async def _assign(dsn: str, wait_nodes: int, timeout: float) -> Topology:
    async with _store(dsn) as store:
        topology = await store.get()
        try:
            async with asyncio.timeout(timeout), aclosing(store.changes()) as changes:
                async for _ in changes:
                    topology = await store.get()
                    if not topology.unowned:
                        nothing_to_do("Every slot has an owner already.")
                    if len(topology.weights) < wait_nodes:
                        typer.echo(f"Waiting for nodes: {len(topology.weights)} of {wait_nodes}", err=True)
                        continue
                    # A node that registers this very moment makes this fail, and the next change brings us back here.
                    with suppress(TopologyChanged):
                        return await store.assign(topology.version, _first_owners(topology))
        except TimeoutError:
            names = ", ".join(topology.weights) or "none"
            fail(f"Only these of {wait_nodes} nodes within {timeout:g} s: {names}", ExitCode.TIMED_OUT)
    raise AssertionError("the changes of a store end only by an error")


def _first_owners(topology: Topology) -> dict[int, str]:
    owners = place(topology.owners, topology.weights, move_owned=False)
    return {move.slot: move.target for move in moves_between(topology, owners)}


@asynccontextmanager
async def _store(dsn: str) -> AsyncIterator[PostgresTopologyStore]:
    store = PostgresTopologyStore(dsn)
    try:
        yield store
    finally:
        await store.close()


def _print(topology: Topology) -> None:
    """Print the cluster in one line and its nodes in a table."""
    spread = balance(topology.owners, topology.weights)
    table = Table("node", "address", "state", *(Column(name, justify="right") for name in _NUMBERS))
    for name, node in topology.nodes.items():
        table.add_row(
            name,
            node.address,
            node.state,
            str(node.weight),
            str(node.generation),
            str(spread.slots.get(name, 0)),
            f"{spread.shares.get(name, 0.0):.2f}",
        )
    console = Console()
    console.print(
        f"cluster {topology.cluster_id}, version {topology.version}, {topology.slot_count} slots,"
        f" {len(topology.unowned)} without owner",
        soft_wrap=True,
    )
    console.print(table)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End the command with a sentence and an exit code instead of an error."""
    try:
        yield
    except ClusterExists as error:
        fail(error.message, ExitCode.REFUSED)
    except LikeringError as error:
        # The cause names the host and what the driver met: for whoever runs a command, unlike for a caller.
        cause = error.__cause__ if isinstance(error.__cause__, psycopg.OperationalError) else None
        fail(f"{error.message} ({cause})" if cause else error.message, ExitCode.FAILED)
