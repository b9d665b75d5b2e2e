"""What the tests of ``likering ring`` and ``likering node`` share: to run them, and to read what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
from typer.testing import CliRunner, Result

from likering.cli.main import app
from likering.ring.topology import Topology
from likering.topology.moves import SlotMove
from likering.topology.postgres import SCHEMA
from tests.parts.ring_server import FakeNode, RingServer

Run = Callable[..., Result]
"""Runs ``likering …`` with these arguments."""


def likering(admin: str, *arguments: str, columns: int = 250) -> Result:
    """Runs a command against the port for operators; its stdin is no terminal."""
    return CliRunner().invoke(
        app,
        arguments,
        env={"LIKERING_ADMIN": admin, "COLUMNS": str(columns), "TERM": "dumb"},
        prog_name="likering",
    )


def output_of(result: Result, code: int = 0) -> Any:
    """What a command with ``-o json`` printed."""
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refusal(result: Result) -> str:
    """The last sentence of a command that was refused."""
    assert result.exit_code == 4, result.output
    return result.stderr.splitlines()[-1].removeprefix("likering: ")


def topology_of(server: RingServer) -> Topology:
    """As the store has it."""
    return server.run(server.store.get())


def moves_of(server: RingServer, ended: bool = True) -> list[SlotMove]:
    """As the store has them."""
    return server.run(server.moves.moves(ended=ended))


def set_up(server: RingServer) -> Topology:
    """Nodes a and b own four slots each, c none."""
    server.run(server.nodes("a", "b"))
    return server.run(server.nodes("c"))


def apply(run: Run) -> int:
    """Begins a resize."""
    return int(output_of(run("ring", "apply", "--yes", "--no-wait", "-o", "json"))["resize"])


async def started_node() -> FakeNode:
    """A stand-in for a node, which answers."""
    node = FakeNode()
    await node.start()
    return node


def age(database: str) -> None:
    """All moves have been in their states for a minute, and were last spoken of then."""
    with psycopg.connect(database, autocommit=True, options=f"-csearch_path={SCHEMA}") as connection:
        connection.execute(
            "UPDATE moves SET word_at = word_at - interval '60 s', state_since = state_since - interval '60 s'"
        )
