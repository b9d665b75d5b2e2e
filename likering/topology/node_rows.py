"""The rows of the nodes in the topology database. Whoever calls holds the lock of the cluster's row."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from likering.errors import NodeOwnsSlots
from likering.postgres.session import Connection
from likering.ring.topology import NodeState
from likering.topology.store import NodeRefused, NodeRegistration, NodeSuperseded, NodeUnknown

_SAME_NODES = """
SELECT name, uuid::text, address, generation, system_identifier
FROM nodes WHERE name = %(name)s OR uuid = %(uuid)s
"""
_UPSERT_NODE = """
INSERT INTO nodes (name, uuid, address, weight, generation, system_identifier)
VALUES (%(name)s, %(uuid)s, %(address)s, %(weight)s, %(generation)s, %(system_identifier)s)
ON CONFLICT (name) DO UPDATE
SET address = excluded.address, generation = excluded.generation,
    system_identifier = excluded.system_identifier, updated_at = now()
"""
_TIES = """
SELECT (SELECT count(*) FROM slots WHERE owner = %(name)s),
       (SELECT array_agg(move || ' of slot ' || slot || ', which is ' || state ORDER BY move) FROM moves
        WHERE %(name)s IN (source, target) AND state NOT IN ('retired', 'cancelled', 'reverted'))
"""


async def registered(connection: Connection, registration: NodeRegistration) -> bool:
    """Writes what a node says of itself; False when that is known already. Raises NodeRefused and NodeSuperseded."""
    if not await _is_news(connection, registration):
        return False
    await connection.execute(_UPSERT_NODE, _parameters(registration))
    return True


async def check_known(connection: Connection, name: str) -> None:
    """Raises NodeUnknown unless a node of that name has registered."""
    # Not asked for by its name, which may be anything: Postgres takes no text with a NUL.
    cursor = await connection.execute("SELECT name FROM nodes ORDER BY name")
    names = [row[0] for row in await cursor.fetchall()]
    if name not in names:
        raise NodeUnknown.of(name, names)


async def check_free(connection: Connection, name: str) -> None:
    """Raises NodeOwnsSlots while a node owns a slot or takes part in a move."""
    cursor = await connection.execute(_TIES, {"name": name})
    slots, moves = await cursor.fetchone() or (0, None)
    if slots:
        raise NodeOwnsSlots(f"Node {name} owns {slots} of the slots: drain it, and wait until it owns none")
    if moves:
        more = f" and {len(moves) - 1} more" if len(moves) > 1 else ""
        raise NodeOwnsSlots(
            f"Node {name} takes part in move {moves[0]}{more}: wait until they have ended (a move that is verified"
            " ends with its grace period)"
        )


async def check_active(connection: Connection, names: set[str]) -> None:
    """Raises ValueError unless these are active nodes."""
    cursor = await connection.execute("SELECT name FROM nodes WHERE state = %s", [NodeState.ACTIVE])
    active = {row[0] for row in await cursor.fetchall()}
    if names - active:
        raise ValueError(f"Not an active node of the cluster: {', '.join(sorted(names - active))}")


async def _is_news(connection: Connection, registration: NodeRegistration) -> bool:
    """Whether a registration changes anything; raises when it must not."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SAME_NODES, _parameters(registration))
        rows = await cursor.fetchall()
    for row in rows:
        if row["uuid"] != registration.uuid:
            raise NodeRefused(
                f"The name {registration.name} belongs to another node (uuid {row['uuid']}, at {row['address']}), not"
                f" to this database (uuid {registration.uuid}): choose another name, or give the node its own database"
            )
        if row["name"] != registration.name:
            raise NodeRefused(
                f"This database (uuid {registration.uuid}) is registered as node {row['name']} and cannot become"
                f" {registration.name}: keep the name, or begin with an empty database"
            )
        if row["generation"] > registration.generation:
            raise NodeSuperseded(
                f"Another process writes for node {registration.name} by now (generation {row['generation']}, this one"
                f" has {registration.generation})"
            )
    given = _parameters(registration)
    return not rows or any(given[key] != value for key, value in rows[0].items())


def _parameters(registration: NodeRegistration) -> dict[str, Any]:
    return {
        "name": registration.name,
        "uuid": registration.uuid,
        "address": registration.address,
        "weight": registration.weight,
        "generation": registration.generation,
        "system_identifier": registration.system_identifier,
    }
