"""The topology in Postgres: each change a compare-and-set under the lock of the cluster's one row."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from importlib.resources import files
from typing import Any, TypeVar

import psycopg
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedColumn, UndefinedTable
from psycopg.rows import dict_row

from likering.errors import TopologyChanged, TopologyUnavailable, WrongCluster
from likering.postgres.migrations import migrate
from likering.postgres.session import Connection, Session, conninfo
from likering.ring.hashing import check_slot_count
from likering.ring.topology import Node, NodeState, Topology
from likering.topology import node_rows, replica_rows
from likering.topology.store import (
    ClusterExists,
    ClusterMissing,
    NewOwner,
    NodeRegistration,
    SchemaOutdated,
    TopologyChange,
    check_address,
    check_weight,
)

SCHEMA = "likering"
CHANNEL = "likering_topology"

T = TypeVar("T")

# One statement, so one snapshot. The parts are left out (null) when the version is the one that the caller has.
_GET = """
SELECT cluster_id::text, version, slot_count, changed,
       CASE WHEN changed THEN (
           SELECT coalesce(jsonb_agg(jsonb_build_object(
                      'name', name, 'uuid', uuid, 'address', address, 'weight', weight,
                      'state', state, 'generation', generation)), '[]')
           FROM nodes) END AS nodes,
       CASE WHEN changed THEN (SELECT array_agg(owner ORDER BY slot) FROM slots) END AS owners,
       CASE WHEN changed THEN (SELECT array_agg(epoch ORDER BY slot) FROM slots) END AS epochs,
       CASE WHEN changed THEN (
           SELECT coalesce(jsonb_object_agg(node, addresses), '{}')
           FROM (SELECT node, jsonb_agg(address) AS addresses FROM replicas GROUP BY node) AS r) END AS replicas
FROM (SELECT *, (cluster_id::text, version) IS DISTINCT FROM (%(cluster_id)s, %(version)s) AS changed FROM cluster) AS c
"""
_LOCK_CLUSTER = "SELECT cluster_id::text, version FROM cluster FOR UPDATE"
_SET_NODE = """
UPDATE nodes SET weight = coalesce(%(weight)s, weight), state = coalesce(%(state)s, state), updated_at = now()
WHERE name = %(name)s
  AND (weight, state) IS DISTINCT FROM (coalesce(%(weight)s, weight), coalesce(%(state)s, state))
"""
_ASSIGN = """
UPDATE slots SET owner = given.owner, epoch = 1
FROM unnest(%s::integer[], %s::text[]) AS given (slot, owner)
WHERE slots.slot = given.slot AND slots.owner IS NULL
"""
RAISE_VERSION = f"""
WITH raised AS (UPDATE cluster SET version = version + 1 RETURNING version)
SELECT pg_notify('{CHANNEL}', version::text) FROM raised
"""


class PostgresTopologyStore:
    """A TopologyStore. Connects on the first call and again after the connection broke."""

    def __init__(self, dsn: str, *, timeout: float = 3.0) -> None:
        """``timeout`` (seconds) is for each call. Raises ValueError when the DSN is not a connection string."""
        self._conninfo = conninfo(dsn, timeout=timeout, schema=SCHEMA, application_name="likering-topology")
        self._timeout = timeout
        self._session = Session(self._conninfo, timeout=timeout)
        self._listeners: set[Session] = set()

    def __repr__(self) -> str:
        return f"PostgresTopologyStore({self._session!r})"

    async def get(self, known: Topology | None = None) -> Topology:
        """See TopologyStore. With the newest one known it costs a look at one row."""

        async def work(connection: Connection) -> Topology:
            return await _read(connection, known)

        return await self._run(work)

    async def register(self, registration: NodeRegistration) -> Topology:
        """See TopologyStore. Registering the same again changes nothing, the version included."""

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                cluster_id, _ = await lock_cluster(connection)
                if registration.cluster_id not in (None, cluster_id):
                    raise WrongCluster(
                        f"Node {registration.name} belongs to cluster {registration.cluster_id}, but the topology"
                        f" database is of cluster {cluster_id}: give the node its own cluster's topology database,"
                        " or an empty Postgres"
                    )
                if await node_rows.registered(connection, registration):
                    await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def assign(self, expected_version: int, owners: Mapping[int, str]) -> Topology:
        """See TopologyStore."""

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                _, version = await lock_cluster(connection)
                if version != expected_version:
                    raise TopologyChanged(
                        f"The topology is at version {version} by now, not at {expected_version}; read it again"
                    )
                await node_rows.check_active(connection, set(owners.values()))
                cursor = await connection.execute(_ASSIGN, [list(owners.keys()), list(owners.values())])
                if cursor.rowcount != len(owners):
                    raise ValueError(
                        f"Only {cursor.rowcount} of the {len(owners)} slots are there and without owner"
                    )
                await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def set_node(
        self, name: str, *, weight: int | None = None, state: NodeState | None = None
    ) -> Topology:
        """See TopologyStore. Setting what is set already changes nothing, the version included."""
        if weight is not None:
            check_weight(weight)

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                await lock_cluster(connection)
                await node_rows.check_known(connection, name)
                cursor = await connection.execute(_SET_NODE, {"name": name, "weight": weight, "state": state})
                if cursor.rowcount:
                    await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def remove_node(self, name: str) -> Topology:
        """See TopologyStore."""

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                # Whoever begins a move or changes an owner takes this lock as well, so nothing new ties the node now.
                await lock_cluster(connection)
                await node_rows.check_known(connection, name)
                await node_rows.check_free(connection, name)
                await connection.execute("DELETE FROM nodes WHERE name = %s", [name])
                await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def register_replica(self, cluster_id: str, node: str, address: str) -> Topology:
        """See TopologyStore. An address that was another node's replica is this one's from now on."""
        check_address(address)

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                known, _ = await lock_cluster(connection)
                if known != cluster_id:
                    raise WrongCluster(
                        f"This replica belongs to cluster {cluster_id}, but the topology database is of cluster {known}"
                    )
                await node_rows.check_known(connection, node)
                if await replica_rows.registered(connection, node, address):
                    await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def remove_replica(self, address: str) -> Topology:
        """See TopologyStore."""

        async def work(connection: Connection) -> Topology:
            async with connection.transaction():
                await lock_cluster(connection)
                await replica_rows.remove(connection, address)
                await connection.execute(RAISE_VERSION)
            return await _read(connection)

        return await self._run(work)

    async def changes(self) -> AsyncGenerator[TopologyChange, None]:
        """See TopologyStore. Holds a connection of its own until the generator is closed."""
        session = Session(self._conninfo, timeout=self._timeout)

        async def listen(connection: Connection) -> TopologyChange:
            await connection.execute(f"LISTEN {CHANNEL}")
            # Only now: a change between a look and the LISTEN would be told to nobody.
            cursor = await connection.execute("SELECT version FROM cluster")
            row = await cursor.fetchone()
            if row is None:
                raise ClusterMissing
            return TopologyChange(int(row[0]))

        self._listeners.add(session)
        try:
            with clear_errors(self._timeout):
                yield await session.run(listen)
                async with aclosing(session.notifications()) as payloads:
                    async for payload in payloads:
                        yield _change(payload)
        finally:
            self._listeners.discard(session)
            await session.close()

    async def close(self) -> None:
        """See TopologyStore."""
        for session in (self._session, *self._listeners):
            await session.close()

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with clear_errors(self._timeout):
            return await self._session.run(work)


async def create_cluster(dsn: str, slot_count: int, *, timeout: float = 30.0) -> str:
    """Make the schema and a cluster without nodes; returns the cluster id.

    ``timeout`` (seconds) is for all of it. Raises ClusterExists when the database holds a cluster, ValueError for a
    number of slots that is no power of two from 1 to 16384, MigrationError, and TopologyUnavailable.
    """
    check_slot_count(slot_count)
    cluster_id = str(uuid.uuid4())

    async def work(connection: Connection) -> None:
        await migrate(connection, files("likering.topology") / "schema", schema=SCHEMA)
        async with connection.transaction():
            cursor = await connection.execute(
                "INSERT INTO cluster (cluster_id, slot_count, version) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING",
                [cluster_id, slot_count],
            )
            if cursor.rowcount == 0:
                cursor = await connection.execute("SELECT cluster_id, slot_count FROM cluster")
                raise ClusterExists(
                    "The topology database holds a cluster already: {} with {} slots".format(
                        *(await cursor.fetchone() or ())
                    )
                )
            await connection.execute(
                "INSERT INTO slots (slot) SELECT generate_series(0, %s - 1)", [slot_count]
            )

    await _run_once(dsn, work, timeout)
    return cluster_id


async def upgrade_cluster(dsn: str, *, timeout: float = 30.0) -> list[str]:
    """Bring the schema of a cluster up to this version; returns the names of the migrations that were applied.

    ``timeout`` (seconds) is for all of it. Raises ClusterMissing when there is none (and makes nothing then),
    MigrationError, for instance when a newer version has been here, and TopologyUnavailable.
    """

    async def work(connection: Connection) -> list[str]:
        await lock_cluster(connection)
        before = await _applied(connection)
        await migrate(connection, files("likering.topology") / "schema", schema=SCHEMA)
        return (await _applied(connection))[len(before) :]

    return await _run_once(dsn, work, timeout)


async def _run_once(dsn: str, work: Callable[[Connection], Awaitable[T]], timeout: float) -> T:
    settings = conninfo(dsn, timeout=timeout, schema=SCHEMA, application_name="likering-init")
    session = Session(settings, timeout=timeout)
    try:
        with clear_errors(timeout):
            return await session.run(work)
    finally:
        await session.close()


async def _applied(connection: Connection) -> list[str]:
    cursor = await connection.execute("SELECT version, name FROM schema_migrations ORDER BY version")
    return [f"{version:04}_{name}" for version, name in await cursor.fetchall()]


@contextmanager
def clear_errors(timeout: float) -> Iterator[None]:
    """Say what an error of the driver means; the driver's own words, with hosts and SQL, stay in the cause."""
    try:
        yield
    except TimeoutError as error:
        raise TopologyUnavailable(f"The topology database did not answer within {timeout:g} s") from error
    except (UndefinedTable, InvalidSchemaName) as error:
        # Every call on the topology itself begins with the table cluster; later migrations brought the others.
        if isinstance(error, UndefinedTable) and '"cluster"' not in str(error):
            raise SchemaOutdated from error
        raise ClusterMissing from error
    except UndefinedColumn as error:
        raise SchemaOutdated from error
    except InsufficientPrivilege as error:
        raise TopologyUnavailable("The topology database refuses its user what is needed") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise TopologyUnavailable("The topology database is not reachable") from error


async def lock_cluster(connection: Connection) -> tuple[str, int]:
    cursor = await connection.execute(_LOCK_CLUSTER)
    row = await cursor.fetchone()
    if row is None:
        raise ClusterMissing
    return row[0], row[1]


async def _read(connection: Connection, known: Topology | None = None) -> Topology:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            _GET, {"cluster_id": known and known.cluster_id, "version": known and known.version}
        )
        row = await cursor.fetchone()
    if row is None:
        raise ClusterMissing
    return _topology(row) if row["changed"] or known is None else known


def _change(payload: str) -> TopologyChange:
    version, *new_owner = payload.split(" ")
    if not new_owner:
        return TopologyChange(int(version))
    slot, owner, epoch = new_owner
    return TopologyChange(int(version), NewOwner(int(slot), owner, int(epoch)))


def _topology(row: Mapping[str, Any]) -> Topology:
    return Topology(
        cluster_id=row["cluster_id"],
        version=row["version"],
        slot_count=row["slot_count"],
        nodes={node["name"]: Node(**{**node, "state": NodeState(node["state"])}) for node in row["nodes"]},
        owners=tuple(row["owners"]),
        epochs=tuple(row["epochs"]),
        replicas={name: tuple(addresses) for name, addresses in row["replicas"].items()},
    )
