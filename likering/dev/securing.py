"""How a secured cluster on one machine is put together: who holds which certificate, and which role that gives."""

from __future__ import annotations

from pathlib import Path

from likering.dev.authority import ADMIN_AUDIENCE, AUDIENCE, ISSUER, Authority, CertificateFiles
from likering.security.roles import Role


class Secured:
    """The certificates of a cluster, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.authority.give_roles(
            {
                "router": [Role.NODE],
                "node": [Role.NODE],
                "app": [Role.READER, Role.WRITER],
                "operator": [Role.OPERATOR],
            }
        )
        self.router = self.authority.issue("router")
        self.app = self.authority.issue("app")
        """For callers: what the example shows."""
        self.operator = self.authority.issue("operator")

    def __repr__(self) -> str:
        return f"Secured({str(self.authority.directory)!r})"

    def node(self, name: str) -> CertificateFiles:
        """A new certificate for a node. All of them stand for the same: a part of the cluster."""
        return self.authority.issue("node", file=f"node-{name}")

    def settings(self, prefix: str, files: CertificateFiles) -> dict[str, str]:
        """For the environment of a process whose settings begin with ``prefix``."""
        return {
            f"{prefix}TLS_CERTIFICATE": str(files.certificate),
            f"{prefix}TLS_KEY": str(files.key),
            f"{prefix}TLS_CA": str(files.ca),
            f"{prefix}TLS_ROLES": str(self.authority.roles),
        }

    def router_settings(self, prefix: str, token_listen: str) -> dict[str, str]:
        """The same for the router, which takes tokens, too."""
        return {
            **self.settings(prefix, self.router),
            f"{prefix}TOKEN_LISTEN": token_listen,
            f"{prefix}TOKEN_KEYS": str(self.authority.token_keys),
            f"{prefix}TOKEN_AUDIENCE": AUDIENCE,
            f"{prefix}TOKEN_ADMIN_AUDIENCE": ADMIN_AUDIENCE,
            f"{prefix}TOKEN_ISSUER": ISSUER,
            f"{prefix}TOKEN_BINDS_USER": "true",
        }
