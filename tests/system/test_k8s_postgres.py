"""Nodes on Postgres as the production overlay sets it up: its parameters, and the roles that CloudNativePG manages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql

from likering import LikeTracker
from likering.dev.binaries import find_postgres
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.postgres.roles import Database, statements
from tests.parts.manifests import named, overlay
from tests.parts.ring_commands import likering

pytestmark = pytest.mark.timeout(180)


def spec(cluster: str) -> dict[str, Any]:
    """Of a Cluster of the overlay."""
    return cast(dict[str, Any], named(overlay("overlays/production"), "Cluster", cluster)["spec"])


def manage(connection: psycopg.Connection[Any], roles: Sequence[Mapping[str, Any]]) -> None:
    """Makes of roles what the Cluster says of them, as CloudNativePG does: it takes away what it does not say."""
    for role in roles:
        name = sql.Identifier(role["name"])
        attributes = {
            "LOGIN": role.get("login"),
            "REPLICATION": role.get("replication"),
            "SUPERUSER": role.get("superuser"),
        }
        words = sql.SQL(" ").join(sql.SQL(word if on else f"NO{word}") for word, on in attributes.items())
        found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role["name"]]).fetchone()
        connection.execute(
            sql.SQL("{} ROLE {} ").format(sql.SQL("CREATE" if found is None else "ALTER"), name) + words
        )
        wanted = set(role.get("inRoles", ()))
        held = memberships(connection, role["name"])
        for group in sorted(wanted | held):
            verb = "GRANT {} TO {}" if group in wanted else "REVOKE {} FROM {}"
            connection.execute(sql.SQL(verb).format(sql.Identifier(group), name))


def memberships(connection: psycopg.Connection[Any], role: str) -> set[str]:
    """The roles that a role is in."""
    rows = connection.execute(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole", [role]
    )
    return {group for (group,) in rows}


def rights(connection: psycopg.Connection[Any], role: str) -> tuple[object, ...]:
    """What a role may, and the roles that it is in."""
    row = connection.execute(
        "SELECT rolcanlogin, rolreplication, rolsuper FROM pg_roles WHERE rolname = %s", [role]
    ).fetchone()
    assert row is not None
    return (*row, frozenset(memberships(connection, role)))


class ProductionPostgres(PostgresServer):
    """With the parameters of a shard's Cluster, but for the memory, and with its roles."""

    def __init__(self, directory: Path, **options: Any) -> None:
        parameters = spec("shard-0-postgres")["postgresql"]["parameters"]
        super().__init__(directory, settings={**parameters, "shared_buffers": "128MB"}, **options)

    def make_roles(self, statements: str, names: Sequence[str]) -> None:
        super().make_roles(statements, names)
        # The embedded superuser has the name of the database's owner there.
        roles = [role for role in spec("shard-0-postgres")["managed"]["roles"] if role["login"]]
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            manage(connection, roles)


@pytest.mark.parametrize(
    ("cluster", "database"), [("shard-0-postgres", Database.NODE), ("topology-postgres", Database.TOPOLOGY)]
)
def test_the_managed_roles_are_those_of_the_command(
    cluster: str, database: Database, postgres_server: PostgresServer
) -> None:
    """Whatever CloudNativePG makes of them, `likering cluster roles` has made already."""
    roles = [role for role in spec(cluster)["managed"]["roles"] if role["login"]]
    with psycopg.connect(postgres_server.dsn) as connection:
        connection.execute(statements(database).encode())
        made = {role["name"]: rights(connection, role["name"]) for role in roles}
        manage(connection, roles)
        assert {role["name"]: rights(connection, role["name"]) for role in roles} == made
        connection.rollback()
    assert (
        set(made)
        == {
            Database.NODE: {"likering_node", "likering_replication"},
            Database.TOPOLOGY: {"likering_app", "likering_migration"},
        }[database]
    )


def test_the_rule_against_plaintext_is_one_that_postgres_knows(postgres_server: PostgresServer) -> None:
    """Which reads its file here, and does not act on it."""
    file = postgres_server.data / "pg_hba.conf"
    before = file.read_bytes()
    try:
        with file.open("a") as hba:
            hba.writelines(f"{rule}\n" for rule in spec("shard-0-postgres")["postgresql"]["pg_hba"])
        with psycopg.connect(postgres_server.dsn) as connection:
            rows = connection.execute(
                "SELECT type, auth_method, error FROM pg_hba_file_rules ORDER BY line_number DESC LIMIT 1"
            ).fetchall()
    finally:
        file.write_bytes(before)
    assert rows == [("hostnossl", "reject", None)]


@pytest.mark.skipif(
    find_postgres().major < 16,
    reason="up to Postgres 15 only a superuser makes subscriptions; the overlay has 18",
)
def test_slots_move_between_such_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third node joins, is given its share, and everything is as it should be; likes of before are there."""
    monkeypatch.setattr("likering.dev.node.PostgresServer", ProductionPostgres)
    with EmbeddedCluster(tmp_path / "cluster", nodes=2, slots=8, secure=True) as cluster:
        own = cluster.secured
        assert own is not None
        for setting, path in own.operator._asdict().items():
            monkeypatch.setenv(f"LIKERING_TLS_{setting.upper()}", str(path))
        with LikeTracker(cluster.address, credentials=own.app.credentials(), timeout=60.0) as likes:
            for number in range(40):
                assert likes.like("u", f"p{number}")
            cluster.add_node("c")
            assert likering(cluster.admin_address, "ring", "limits", "--grace", "0").exit_code == 0
            added = likering(cluster.admin_address, "node", "add", "c", "--yes", "--timeout", "90")
            assert added.exit_code == 0, added.output
            # What a move leaves behind is dropped by and by.
            deadline = monotonic() + 60
            while (checked := likering(cluster.admin_address, "ring", "check")).exit_code != 0:
                assert monotonic() < deadline, checked.output
                sleep(0.2)
            assert [likes.like_count(f"p{number}") for number in range(40)] == [1] * 40
