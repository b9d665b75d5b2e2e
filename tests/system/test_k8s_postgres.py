"""Nodes on Postgres as the production overlay sets it up: its parameters, and the roles that CloudNativePG manages."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from likering import LikeTracker
from likering.dev.accounts import server_account
from likering.dev.binaries import POSTGRES_SETTING, find_postgres
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from likering.postgres.roles import Database, statements
from tests.parts.cert_manager import CertManager
from tests.parts.manifests import launch, named, overlay
from tests.parts.programs import lacks
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


def with_tls() -> Path:
    """Where the newest Postgres is that was built with TLS: a system's, since the embedded one was not."""
    found = [
        postgres.parent
        for postgres in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if "libssl" in subprocess.run(["ldd", postgres], check=True, capture_output=True, text=True).stdout
    ]
    if not found:
        lacks("a Postgres with TLS is", packages="postgresql")
    return found[-1]


def test_a_server_is_verified_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real handshake, by the connection strings of the pods: the Clusters' own names, and no other node's."""
    monkeypatch.setenv(POSTGRES_SETTING, str(with_tls()))
    manifests = overlay("overlays/production")
    secret = CertManager(manifests).secret("shard-0-postgres-server")
    server = PostgresServer(tmp_path / "postgres")
    server.start()  # makes the data directory
    server.stop()
    server.settings |= {"ssl": "on", "ssl_cert_file": "tls.crt", "ssl_key_file": "tls.key"}
    for name, content in secret.items():
        file = server.data / name
        file.write_bytes(content)
        file.chmod(0o600)
        if (account := server_account()) is not None:
            account.own(file)
    (tmp_path / "ca.crt").write_bytes(secret["ca.crt"])
    server.start()
    try:
        superuser = conninfo_to_dict(server.dsn)
        for pod, let_in in (("shard-0", True), ("shard-1", False)):
            started = launch(manifests, named(manifests, "StatefulSet", "shard"), "node", pod=pod)
            monkeypatch.setenv("PGSSLMODE", started.environment["PGSSLMODE"])
            monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "ca.crt"))
            for variable in ("LIKERING_NODE_POSTGRES", "LIKERING_NODE_REPLICATION"):
                asked = conninfo_to_dict(started.environment[variable])
                here = {key: superuser[key] for key in ("dbname", "user", "password", "port")}
                if "sslrootcert" in asked:
                    here["sslrootcert"] = str(tmp_path / "ca.crt")
                dsn = make_conninfo("", **{**asked, **here, "hostaddr": "127.0.0.1,127.0.0.1"})
                if let_in:
                    with psycopg.connect(dsn) as connection:
                        assert connection.pgconn.ssl_in_use
                else:
                    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
                        psycopg.connect(dsn)
    finally:
        server.stop()


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
