"""Which node of which cluster a database belongs to: claimed once, checked at every start."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from likering.postgres.migrations import migrate
from likering.ring.topology import Topology
from shard_node.database import SCHEMA
from shard_node.store import Connection, execute


class IdentityMismatch(Exception):
    """The database is another node's. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node's database says of itself; ``system_identifier`` is that of its Postgres server."""

    cluster_id: str
    slot_count: int
    node_name: str
    node_uuid: str
    system_identifier: str
    schema_version: int


async def establish(connection: Connection, node_name: str, topology: Topology | None) -> Identity | None:
    """Brings the schema up to date and returns the database's identity, claiming a new database for this node.

    Without a topology a new database cannot be claimed: None. Raises IdentityMismatch for a database of another
    node or cluster, and likering.postgres.migrations.MigrationError.
    """
    await migrate(connection, files("shard_node").joinpath("schema"), schema=SCHEMA)
    if topology is not None:
        await execute(
            connection,
            "claim_identity",
            {"cluster_id": topology.cluster_id, "slot_count": topology.slot_count, "node_name": node_name},
        )
    row = await (await execute(connection, "read_identity")).fetchone()
    if row is None:
        return None
    system = await (await execute(connection, "system_identifier")).fetchone()
    assert system is not None
    version = await (await execute(connection, "schema_version")).fetchone()
    assert version is not None
    identity = Identity(*row, *system, *version)
    if identity.node_name != node_name:
        raise IdentityMismatch(f"this database belongs to node {identity.node_name!r}, not to {node_name!r}")
    if topology is not None:
        check_cluster(identity, topology)
    return identity


def check_cluster(identity: Identity, topology: Topology) -> None:
    """Raises IdentityMismatch when the topology is of another cluster than the database."""
    if identity.cluster_id != topology.cluster_id:
        raise IdentityMismatch(
            f"this database belongs to cluster {identity.cluster_id},"
            f" the topology is of cluster {topology.cluster_id}"
        )
