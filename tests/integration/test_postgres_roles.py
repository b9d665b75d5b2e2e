"""The Postgres roles of ``likering cluster roles``: what they can do, and what not."""

from __future__ import annotations

from importlib.resources import files

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from likering.cli.main import app
from likering.dev.postgres import USER, PostgresServer
from likering.postgres.migrations import migrate
from likering.postgres.roles import Database, statements
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from likering.topology.store import NodeRegistration

SCHEMA = "likering"
PASSWORD = "a-password-of-the-test"


OF_THE_SERVER = (
    "CREATE ROLE more",
    "CREATE DATABASE more",
    "DROP DATABASE postgres",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "GRANT pg_read_server_files TO CURRENT_USER",
    f"SET SESSION AUTHORIZATION {USER}",
    f"SET ROLE {USER}",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_reload_conf()",
    "ALTER SYSTEM SET fsync = off",
    "CREATE TABLE public.more (n int)",
    "CREATE EXTENSION file_fdw",
    "CREATE FUNCTION likering.system(text) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'",
    "CREATE EVENT TRIGGER more ON ddl_command_end EXECUTE FUNCTION likering.more()",
    "LOAD 'auth_delay'",
    "SET session_replication_role = replica",
    "SET log_statement = 'all'",
)
"""What no role may do anywhere."""


def give_roles(database: str, kind: Database, *names: str) -> list[str]:
    """Makes them; the DSN of each."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statements(kind).encode())
        for name in names:
            connection.execute(f"ALTER ROLE {name} PASSWORD '{PASSWORD}'".encode())
    return [make_conninfo(database, user=name, password=PASSWORD) for name in names]


def refused(dsn: str, *attempts: str) -> dict[str, str]:
    """What each statement that was let through says; the others are not there."""
    let_through = {}
    with psycopg.connect(
        make_conninfo(dsn, options=f"-csearch_path={SCHEMA}"), autocommit=True
    ) as connection:
        for statement in attempts:
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            let_through[statement] = "was let through"
    return let_through


async def test_the_topology_is_used_by_a_role_that_changes_no_table(database: str) -> None:
    migration, application = give_roles(database, Database.TOPOLOGY, "likering_migration", "likering_app")
    cluster_id = await create_cluster(migration, 8)
    store = PostgresTopologyStore(application)
    try:
        await store.register(
            NodeRegistration(
                cluster_id=cluster_id,
                name="a",
                uuid="00000000-0000-0000-0000-00000000000a",
                address="127.0.0.1:1",
                weight=1,
                generation=1,
                system_identifier="1",
            )
        )
        topology = await store.get()
        assert not (await store.assign(topology.version, dict.fromkeys(range(8), "a"))).unowned
    finally:
        await store.close()
    assert (
        refused(
            application,
            "CREATE TABLE more (n int)",
            "DROP TABLE nodes",
            "ALTER TABLE nodes ADD COLUMN more int",
            "TRUNCATE slots",
            "CREATE SCHEMA more",
            "CREATE ROLE more",
            "SELECT * FROM pg_authid",
            "COPY nodes TO PROGRAM 'true'",
            "CREATE PUBLICATION more FOR TABLE nodes",
            "ALTER TABLE slots DISABLE TRIGGER ALL",
            "CREATE FUNCTION likering.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE INDEX ON slots (owner)",
            "SET ROLE likering_migration",
            *OF_THE_SERVER,
        )
        == {}
    )


async def test_a_node_owns_its_tables_and_nothing_else(database: str) -> None:
    """The schema is brought up to date as that role; everything of the server is out of its reach."""
    node, replication = give_roles(database, Database.NODE, "likering_node", "likering_replication")
    async with await psycopg.AsyncConnection.connect(node, autocommit=True) as connection:
        await migrate(connection, files("shard_node").joinpath("schema"), schema=SCHEMA)
    # A node with --require-synchronous-standby looks at its standbys' connections, which are another role's.
    with psycopg.connect(node, application_name="own") as own, psycopg.connect(database) as other:
        seen = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        assert own.execute(seen, [other.info.backend_pid]).fetchone() == ("idle",)
    # What the one makes belongs to the other.
    with psycopg.connect(replication, autocommit=True) as connection_of_peer:
        connection_of_peer.execute("CREATE PUBLICATION likering_s1_m1_a1 FOR TABLE likering.seals")
    with psycopg.connect(node, autocommit=True) as own:
        own.execute("DROP PUBLICATION likering_s1_m1_a1")
    for dsn in (node, replication):
        assert (
            refused(
                dsn,
                "SELECT subconninfo FROM pg_subscription",
                "COPY seals TO PROGRAM 'true'",
                "COPY seals FROM '/etc/passwd'",
                # Neither another server's tables without a password for it, nor passwords in the log.
                "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (password_required = false)",
                "SET log_min_error_statement = 'error'",
                "ALTER ROLE likering_node RESET log_min_error_statement",
                *OF_THE_SERVER,
            )
            == {}
        )


async def test_tables_that_a_superuser_has_made_change_hands(database: str) -> None:
    """So a cluster that stands can be given roles later, and the statements run again."""
    await create_cluster(database, 8)
    for _ in range(2):
        migration, application = give_roles(database, Database.TOPOLOGY, "likering_migration", "likering_app")
    store = PostgresTopologyStore(application)
    try:
        assert (await store.get()).slot_count == 8
    finally:
        await store.close()
    with psycopg.connect(migration, autocommit=True) as connection:
        connection.execute("ALTER TABLE likering.nodes ADD COLUMN more int")


def test_a_subscription_that_fails_leaves_no_password_in_the_log(
    database: str, postgres_server: PostgresServer
) -> None:
    """Postgres logs statements that fail, and this one has the other node's password in it."""
    (node,) = give_roles(database, Database.NODE, "likering_node")
    with (
        psycopg.connect(node, autocommit=True) as connection,
        # Before Postgres 16 for want of the right, later for want of a server.
        pytest.raises((psycopg.OperationalError, psycopg.errors.InsufficientPrivilege)),
    ):
        connection.execute(
            "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password=hunter2' PUBLICATION p"
        )
    log = postgres_server.log.read_text()
    assert "ERROR: " in log
    assert "hunter2" not in log


@pytest.mark.parametrize("kind", list(Database))
def test_the_command_prints_what_is_run(kind: Database) -> None:
    result = CliRunner().invoke(app, ["cluster", "roles", kind])
    assert result.exit_code == 0
    assert result.stdout == statements(kind)
