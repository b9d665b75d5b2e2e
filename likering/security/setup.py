"""The security settings that all processes have in common, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import structlog
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from likering.security.access import Access
from likering.security.certificates import Certificates
from likering.security.errors import SecurityError
from likering.security.guard import Guard
from likering.security.identity import CertificateIdentities
from likering.security.tokens import TokenVerifier

_log = structlog.get_logger(__name__)

_TLS: Final = ("tls_certificate", "tls_key", "tls_ca", "tls_roles")


class SecuritySettings(BaseSettings):
    """All of TLS or none of it. The files are read again when they change."""

    # Settings that are wrong may be secrets.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain that this process shows, to callers and to nodes"
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key")
    tls_ca: Path | None = Field(
        None, description="PEM file of the authorities that certificates of callers and nodes must come from"
    )
    tls_roles: Path | None = Field(
        None, description="TOML file that gives roles to the names in certificates of callers"
    )


class Security(NamedTuple):
    """What secures a process."""

    certificates: Certificates
    identities: CertificateIdentities

    def access(self, tokens: TokenVerifier | None = None) -> Access:
        """For one server."""
        return Access(self.certificates, Guard(self.identities, tokens))


def security_of(settings: SecuritySettings) -> Security | None:
    """What the settings ask for; None when they ask for nothing. Raises SecurityError when they do by half."""
    given = {name: path for name in _TLS if (path := getattr(settings, name)) is not None}
    if not given:
        return None
    missing = [flag(name) for name in _TLS if name not in given]
    if missing:
        raise SecurityError(
            f"{flag(next(iter(given)))} is set, but not {', '.join(missing)}: all of them or none"
        )
    return Security(
        Certificates(given["tls_certificate"], given["tls_key"], given["tls_ca"]),
        CertificateIdentities(given["tls_roles"]),
    )


def say_how_secured(security: Security | None) -> None:
    """In a log line at the start, so that nobody takes an open process for a closed one."""
    if security is None:
        _log.warning(
            "no TLS and no credentials: whoever reaches the ports of this process may call everything"
        )
    else:
        _log.info("mutual TLS: callers are let in by their certificate or token")


def flag(name: str) -> str:
    """A setting as it is given on the command line."""
    return f"--{name.replace('_', '-')}"
