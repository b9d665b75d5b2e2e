"""Who a certificate stands for: the names in it, and the roles that a file gives to names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Final, NamedTuple, TypeAlias

from cryptography import x509

from likering.errors import NoCredential
from likering.security.errors import SecurityError
from likering.security.files import Reloaded
from likering.security.roles import Role

AuthContext: TypeAlias = Mapping[str, Iterable[bytes]]
"""What gRPC knows of the peer of a connection."""

_PEM: Final = "x509_pem_cert"
_NAMES: Final = (
    ("uri", "peer_uri"),
    ("dns", "peer_dns"),
    ("email", "peer_email"),
    ("cn", "x509_common_name"),
)
_MOST_REMEMBERED: Final = 10_000


class Identity(NamedTuple):
    """Who calls. ``user``: the only one whose likes the caller may change, where there is one.

    ``expires_at``: seconds since 1970.
    """

    name: str
    roles: frozenset[Role]
    expires_at: float
    user: str | None = None


RolesOfNames: TypeAlias = Mapping[str, frozenset[Role]]


class CertificateIdentities:
    """The identities behind client certificates, each looked at once. gRPC has verified them."""

    def __init__(self, roles: Path) -> None:
        """``roles``: see ``roles_of_names``. Raises SecurityError when the file cannot be used."""
        self._roles = Reloaded((roles,), roles_of_names, what="roles of certificates")
        self._version = self._roles.version
        self._known: dict[bytes, Identity] = {}

    def __repr__(self) -> str:
        return f"<CertificateIdentities, {len(self._known)} known>"

    @property
    def version(self) -> int:
        """Grows when the roles change."""
        return self._roles.version

    def of(self, context: AuthContext) -> Identity | None:
        """Who is at the other end of a connection; None when it showed no certificate. Raises NoCredential.

        A connection may outlive its certificate, so that is looked at with each call.
        """
        pem = _first(context, _PEM)
        if not pem:
            return None
        if self._version != self._roles.version:
            self._version = self._roles.version
            self._known.clear()
        identity = self._known.get(pem)
        if identity is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            identity = self._known[pem] = self._read(pem, context)
        if identity.expires_at <= time():
            raise NoCredential
        return identity

    def _read(self, pem: bytes, context: AuthContext) -> Identity:
        roles_of = self._roles.value
        names = [
            f"{kind}:{value.decode(errors='replace')}"
            for kind, key in _NAMES
            for value in context.get(key, ())
        ]
        return Identity(
            name=names[0] if names else "",
            roles=frozenset(role for name in names for role in roles_of.get(name, ())),
            expires_at=x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp(),
        )


def roles_of_names(contents: Sequence[bytes]) -> RolesOfNames:
    """The roles by name, from a TOML file. A name is matched as a whole, there are no patterns. Raises SecurityError.

    ::

        [certificates]
        "uri:spiffe://example.org/likering/router" = ["node"]
        "dns:feed.example.org" = ["reader", "writer"]
        "cn:alice" = ["operator"]
    """
    try:
        document = tomllib.loads(contents[0].decode())
    except ValueError as error:
        raise SecurityError(f"not TOML: {error}") from None
    table = document.pop("certificates", None)
    if document or not isinstance(table, dict):
        raise SecurityError("it has one table, [certificates]")
    return {_checked_name(name): _checked_roles(name, roles) for name, roles in table.items()}


def _checked_name(name: str) -> str:
    kind, _, value = name.partition(":")
    if kind not in (kind for kind, _ in _NAMES) or not value:
        raise SecurityError(f"{name!r} begins with none of uri:, dns:, email:, cn:")
    return name


def _checked_roles(name: str, roles: object) -> frozenset[Role]:
    if not isinstance(roles, list) or not roles:
        raise SecurityError(f"{name!r} has a list of roles")
    try:
        return frozenset(map(Role, roles))
    except ValueError:
        raise SecurityError(f"the roles of {name!r} are among {', '.join(Role)}") from None


def _first(context: AuthContext, key: str) -> bytes:
    return next(iter(context.get(key, ())), b"")
