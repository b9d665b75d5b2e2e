"""The table of the nodes."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Column, Table

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.messages import short_enum

_STATE = api.Node.DESCRIPTOR.fields_by_name["state"]
_NUMBERS = ("weight", "generation", "slots", "quota")


def show_nodes(nodes: Iterable[api.Node], console: Console) -> None:
    """Prints one line for each; with the replicas, if there are any."""
    nodes = list(nodes)
    table = Table("node", "address", "state", *(Column(name, justify="right") for name in _NUMBERS))
    replicated = any(node.replicas for node in nodes)
    if replicated:
        table.add_column("replicas")
    for node in nodes:
        replicas = (", ".join(node.replicas),) if replicated else ()
        table.add_row(
            node.name,
            node.address,
            state_of(node),
            str(node.weight),
            str(node.generation),
            str(node.slots),
            f"{node.quota:.2f}",
            *replicas,
        )
    console.print(table)


def state_of(node: api.Node) -> str:
    """``active`` or ``draining``."""
    return short_enum(_STATE, node.state)
