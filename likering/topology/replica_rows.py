"""The rows of the replicas in the topology database. Whoever calls holds the lock of the cluster's row."""

from __future__ import annotations

from likering.postgres.session import Connection
from likering.topology.store import ReplicaUnknown

_UPSERT = """
INSERT INTO replicas (address, node) VALUES (%(address)s, %(node)s)
ON CONFLICT (address) DO UPDATE SET node = excluded.node, registered_at = now() WHERE replicas.node <> excluded.node
"""


async def registered(connection: Connection, node: str, address: str) -> bool:
    """Writes that a replica of the node, which is known, is at the address; False when that is known already."""
    cursor = await connection.execute(_UPSERT, {"address": address, "node": node})
    return bool(cursor.rowcount)


async def remove(connection: Connection, address: str) -> None:
    """Forgets a replica. Raises ReplicaUnknown."""
    # Not asked for by its address, which may be anything: Postgres takes no text with a NUL.
    cursor = await connection.execute("SELECT address FROM replicas ORDER BY address")
    known = [row[0] for row in await cursor.fetchall()]
    if address not in known:
        raise ReplicaUnknown.of(address, known)
    await connection.execute("DELETE FROM replicas WHERE address = %s", [address])
