"""Nodes on Postgres as the production overlay sets it up: its parameters, and a role that is no superuser."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from likering import LikeTracker
from likering.dev.binaries import find_postgres
from likering.dev.cluster import EmbeddedCluster
from likering.dev.postgres import PostgresServer
from tests.parts.manifests import named, overlay
from tests.parts.ring_commands import likering

pytestmark = pytest.mark.timeout(180)

PASSWORD = "application"
SPEC = cast(dict[str, Any], named(overlay("overlays/production"), "Cluster", "shard-0-postgres")["spec"])


class ProductionPostgres(PostgresServer):
    """With the Cluster's parameters, but for the memory; the node connects as the Cluster's role."""

    def __init__(self, directory: Path, **options: Any) -> None:
        settings = {**SPEC["postgresql"]["parameters"], "shared_buffers": "128MB"}
        super().__init__(directory, settings=settings, **options)

    @property
    def dsn(self) -> str:
        """Of the role, which is made when it is first asked for: the server runs by then."""
        (role,) = SPEC["managed"]["roles"]
        name = sql.Identifier("application")  # the embedded superuser has the name of the Cluster's role
        owner = super().dsn
        with psycopg.connect(owner, autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_roles WHERE rolname = 'application'").fetchone() is None:
                rights = sql.SQL("REPLICATION" if role["replication"] else "NOREPLICATION")
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(name, rights, sql.Literal(PASSWORD))
                )
                for group in role["inRoles"]:
                    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), name))
                database = sql.Identifier(self.database)
                connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, name))
        return make_conninfo(owner, user="application", password=PASSWORD)


@pytest.mark.skipif(
    find_postgres().major < 16,
    reason="up to Postgres 15 only a superuser makes subscriptions; the overlay has 18",
)
def test_slots_move_between_such_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third node joins, is given its share, and everything is as it should be; likes of before are there."""
    monkeypatch.setattr("likering.dev.node.PostgresServer", ProductionPostgres)
    with (
        EmbeddedCluster(tmp_path / "cluster", nodes=2, slots=8) as cluster,
        LikeTracker(cluster.address, timeout=60.0) as likes,
    ):
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
