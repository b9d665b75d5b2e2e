"""One shard node of the embedded cluster: its Postgres, its Valkey and its process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from likering.dev.part import Part
from likering.dev.postgres import PostgresServer
from likering.dev.securing import Secured
from likering.dev.server import Server
from likering.dev.service import Service
from likering.dev.valkey import ValkeyServer
from likering.postgres.roles import Database, statements

PARTS = ("node", "postgres", "valkey")


class EmbeddedNode:
    """A shard node and what it stores in. Addresses are known once the cluster has started it."""

    def __init__(
        self,
        name: str,
        directory: Path,
        port: int,
        *,
        logs: Path,
        topology_dsn: Callable[[], str],
        supervise: bool,
        report: Callable[[str], None],
        secured: Secured | None = None,
        module: str = "shard_node",
    ) -> None:
        """``secured`` gives the node a certificate; None: it serves without TLS.

        ``module`` is what ``python -m`` runs as the node's process.
        """
        self._has_roles = secured is not None
        certificate = secured.node(name) if secured is not None else None
        tls = secured.settings("LIKERING_NODE_", certificate) if secured and certificate else {}
        self.name = name
        self._postgres = PostgresServer(
            directory / "postgres", log=logs / f"{name}-postgres.log", what=f"Postgres of node {name}"
        )
        self._valkey = ValkeyServer(
            directory / "valkey", log=logs / f"{name}-valkey.log", what=f"Valkey of node {name}"
        )
        self._service = Service(
            module,
            ["--name", name, "--listen", f"127.0.0.1:{port}"],
            port=port,
            environment=lambda: {
                **self._databases(),
                "LIKERING_NODE_CACHE": self.cache_url,
                "LIKERING_NODE_TOPOLOGY": topology_dsn(),
                **tls,
            },
            certificate=certificate,
            log=logs / f"{name}-node.log",
            what=f"node {name}",
        )
        servers: Mapping[str, Server] = {
            "node": self._service,
            "postgres": self._postgres,
            "valkey": self._valkey,
        }
        self.parts: Mapping[str, Part] = MappingProxyType(
            {part: Part(servers[part], supervise=supervise, report=report) for part in PARTS}
        )

    def __repr__(self) -> str:
        return f"EmbeddedNode({self.name!r}, {', '.join(f'{name}={part.state}' for name, part in self.parts.items())})"

    @property
    def address(self) -> str:
        """Of the node's gRPC port, host:port."""
        return self._service.address

    @property
    def postgres_dsn(self) -> str:
        """With the password, of a superuser."""
        return self._postgres.dsn

    def make_roles(self) -> None:
        """Where the node is secured: makes the roles that it uses its Postgres with, once that runs."""
        if self._has_roles:
            self._postgres.make_roles(statements(Database.NODE), ("likering_node", "likering_replication"))

    def _databases(self) -> dict[str, str]:
        if not self._has_roles:
            return {"LIKERING_NODE_POSTGRES": self.postgres_dsn}
        return {
            "LIKERING_NODE_POSTGRES": self._postgres.dsn_as("likering_node"),
            "LIKERING_NODE_REPLICATION": self._postgres.dsn_as("likering_replication"),
        }

    @property
    def cache_url(self) -> str:
        """With the password."""
        return self._valkey.url

    def pid(self, part: str = "node") -> int | None:
        """The process of a part ("node", "postgres" or "valkey") while it runs."""
        return self.parts[part].pid
