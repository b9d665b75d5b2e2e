"""``likering node``: bring nodes into the ring and take them out of it."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.admin import DEFAULT_ADMIN, Admin, AdminError, Ring, ring_at
from likering.cli.confirm import Yes, confirm
from likering.cli.exit_codes import ExitCode, fail, nothing_to_do
from likering.cli.messages import plain
from likering.cli.node_table import show_nodes
from likering.cli.output import Output, OutputOption, print_json
from likering.cli.resize import (
    Course,
    ReportFile,
    Timeout,
    Wait,
    apply_anew,
    follow,
    make_plan,
    plan_and_apply,
)
from likering.ring.topology import MAX_WEIGHT

app = typer.Typer(help="Bring nodes into the ring and take them out of it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The node's name.")]


@app.command("list")
def list_nodes(admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """List the nodes with their slots and quotas."""
    with ring_at(admin) as ring:
        topology = _topology(ring)
    _show(topology, output)


@app.command()
def add(
    name: Name,
    admin: Admin = DEFAULT_ADMIN,
    weight: Annotated[
        int | None, typer.Option(min=1, max=MAX_WEIGHT, help="Its weight. Default: as it registered.")
    ] = None,
    register_timeout: Annotated[
        float, typer.Option(min=0.1, help="How long to wait until the node has registered, in seconds.")
    ] = 60.0,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = None,
    report: ReportFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Wait until a node of that name has started and registered, and move its quota of slots to it.

    Exit code 1: moves were cancelled meanwhile; 3: it holds its quota already; 4: refused; 5: it did not register in
    time, or not all slots were moved within --timeout (the moves go on).
    """
    course = Course(yes=yes, wait=wait, timeout=timeout, report=report, output=output)
    with ring_at(admin) as ring:
        node = _registered(ring, name, register_timeout)
        if node.state == api.NODE_STATE_DRAINING:
            fail(
                f"node {name} is draining, so it gets no slots; end that with: likering node undrain {name}",
                ExitCode.REFUSED,
            )
        weights = {name: weight} if weight is not None else {}
        plan_and_apply(ring, weights, course, nothing=f"Node {name} holds its quota of slots already.")


def _registered(ring: Ring, name: str, timeout: float) -> api.Node:
    """The node, as soon as there is one of that name."""
    told = False
    try:
        for response in ring.watch(
            ring.stub.WatchTopology, api.WatchTopologyRequest(), deadline=time.monotonic() + timeout
        ):
            for node in response.topology.nodes:
                if node.name == name:
                    return node
            if not told:
                typer.echo(f"Waiting for node {name} to start and register", err=True)
                told = True
    except TimeoutError:
        fail(
            f"no node {name} registered within {timeout:g} s: is its process running, with --name {name} and this"
            " cluster's topology database?",
            ExitCode.TIMED_OUT,
        )
    raise AssertionError("a watch ends only by an error")


@app.command()
def drain(
    name: Name,
    admin: Admin = DEFAULT_ADMIN,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = None,
    report: ReportFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move all slots of a node to the others, and give it none from now on.

    Exit code 1: moves were cancelled meanwhile; 3: it is draining and owns no slot already; 4: refused, for instance
    while other slots move (it stays draining: run this again); 5: not done within --timeout (the moves go on).
    """
    course = Course(yes=yes, wait=wait, timeout=timeout, report=report, output=output)
    with ring_at(admin) as ring:
        node = _node(_topology(ring), name)
        if node.state == api.NODE_STATE_DRAINING and not node.slots:
            nothing_to_do(f"Node {name} is draining already and owns no slot.")
        confirm(f"Drain node {name}, moving its {node.slots} slots?", yes)
        topology = ring.call(ring.stub.DrainNode, api.DrainNodeRequest(name=name)).topology
        typer.echo(f"Node {name} is draining: plans give it no slots.", err=True)
        made = make_plan(ring, {})
        if made.moves:
            try:
                resize = apply_anew(ring, made, {})
            except AdminError as error:
                if error.reason != "PLAN_STALE":
                    raise
                fail(
                    f"{error.message}. Node {name} stays draining: then run this again, or end that with:"
                    f" likering node undrain {name}",
                    error.exit_code,
                )
            follow(ring, resize, course)
        else:
            _show(topology, output)


@app.command()
def undrain(name: Name, admin: Admin = DEFAULT_ADMIN, output: OutputOption = Output.TABLE) -> None:
    """Let plans give a node slots again; ring apply then moves them. Exit code 3: it is not draining."""
    with ring_at(admin) as ring:
        node = _node(_topology(ring), name)
        if node.state == api.NODE_STATE_ACTIVE:
            nothing_to_do(f"Node {name} is not draining.")
        topology = ring.call(ring.stub.UndrainNode, api.UndrainNodeRequest(name=name)).topology
    _show(topology, output)


@app.command()
def remove(
    name: Name, admin: Admin = DEFAULT_ADMIN, yes: Yes = False, output: OutputOption = Output.TABLE
) -> None:
    """Forget a node that was drained. Stop its process first: it would register again.

    Exit code 4: it owns slots, or takes part in moves that have not ended.
    """
    confirm(f"Remove node {name} from the cluster?", yes)
    with ring_at(admin) as ring:
        topology = ring.call(ring.stub.RemoveNode, api.RemoveNodeRequest(name=name)).topology
    _show(topology, output)


@app.command("remove-replica")
def remove_replica(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it was, as node list shows it.")],
    admin: Admin = DEFAULT_ADMIN,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget a replica that is gone for good; one that is stopped in order takes itself out.

    Exit code 4: none has registered at that address.
    """
    confirm(f"Remove the replica at {address} from the cluster?", yes)
    with ring_at(admin) as ring:
        topology = ring.call(ring.stub.RemoveReplica, api.RemoveReplicaRequest(address=address)).topology
    _show(topology, output)


@app.command()
def weight(
    name: Name,
    value: Annotated[int, typer.Argument(min=1, max=MAX_WEIGHT, metavar="WEIGHT", help="Its share.")],
    admin: Admin = DEFAULT_ADMIN,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a node's weight. No slot moves before: ring apply. Exit code 3: it has that weight already."""
    with ring_at(admin) as ring:
        node = _node(_topology(ring), name)
        if node.weight == value:
            nothing_to_do(f"Node {name} has the weight {value} already.")
        topology = ring.call(ring.stub.AddNode, api.AddNodeRequest(name=name, weight=value)).topology
    _show(topology, output)


def _topology(ring: Ring) -> api.Topology:
    return ring.call(ring.stub.GetTopology, api.GetTopologyRequest()).topology


def _node(topology: api.Topology, name: str) -> api.Node:
    found = next((node for node in topology.nodes if node.name == name), None)
    if found is None:
        known = ", ".join(node.name for node in topology.nodes) or "none"
        fail(f"no node {name} has registered; known are: {known}", ExitCode.REFUSED)
    return found


def _show(topology: api.Topology, output: Output) -> None:
    if output is Output.JSON:
        print_json([plain(node) for node in topology.nodes])
    else:
        show_nodes(topology.nodes, Console())
