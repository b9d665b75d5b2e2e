"""A certificate authority and an issuer of tokens for a cluster on one machine. Not for production: the keys are files.

The authority's key and that of the tokens stay for the next start; certificates are made anew at each start.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from likering.client.credentials import credentials_from_files
from likering.security.roles import Role

AUDIENCE: Final = "likering"
ADMIN_AUDIENCE: Final = "likering-operators"
ISSUER: Final = "likering-dev"
_DAYS: Final = 90
_AUTHORITY_DAYS: Final = 3650
_KEY_ID: Final = "dev"


class CertificateFiles(NamedTuple):
    """Of one holder: where the certificate and its key are, and the authority of the others."""

    certificate: Path
    key: Path
    ca: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """What a client of a server of the same authority shows."""
        return credentials_from_files(ca=self.ca, certificate=self.certificate, key=self.key)


class Authority:
    """Issues certificates and tokens. Everything is below ``directory``, which only its user can read."""

    def __init__(self, directory: Path) -> None:
        """Makes the keys if they are not there yet."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.ca = directory / "ca.pem"
        self.roles = directory / "roles.toml"
        self.token_keys = directory / "tokens.jwks.json"
        self._key = _kept_key(directory / "ca.key")
        self._token_key = _kept_key(directory / "tokens.key")
        self._certificate = self._own_certificate()
        public = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(self._token_key.public_key()))
        _write(self.token_keys, json.dumps({"keys": [{**public, "kid": _KEY_ID, "use": "sig"}]}).encode())

    def __repr__(self) -> str:
        return f"Authority({str(self.directory)!r})"

    def issue(
        self, name: str, *, file: str = "", lifetime: timedelta = timedelta(days=_DAYS)
    ) -> CertificateFiles:
        """A certificate whose name is ``uri_of(name)``, for servers on this machine's loopback interface and clients.

        ``file``: the beginning of the files' names, by default ``name``. A negative ``lifetime`` makes one that has
        expired.
        """
        file = file or name
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=_DAYS))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.UniformResourceIdentifier(uri_of(name)),
                        x509.DNSName("localhost"),
                        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    ]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = CertificateFiles(self.directory / f"{file}.pem", self.directory / f"{file}.key", self.ca)
        _write(files.key, _pem(key))
        _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return files

    def give_roles(self, roles: dict[str, Sequence[Role]]) -> None:
        """Says which holders of certificates may do what: all that there is to it."""
        lines = [
            f'"uri:{uri_of(name)}" = {json.dumps([str(role) for role in given])}'
            for name, given in roles.items()
        ]
        _write(self.roles, "\n".join(["[certificates]", *lines, ""]).encode())

    def token(
        self,
        subject: str,
        roles: Sequence[Role] = (Role.READER, Role.WRITER),
        *,
        audience: str = AUDIENCE,
        lifetime: timedelta = timedelta(hours=1),
    ) -> str:
        """A token. A negative ``lifetime`` makes one that has expired."""
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": subject,
            "roles": [str(role) for role in roles],
            "exp": datetime.now(UTC) + lifetime,
        }
        return jwt.encode(claims, self._token_key, algorithm="ES256", headers={"kid": _KEY_ID})

    def _own_certificate(self) -> x509.Certificate:
        if self.ca.exists():
            return x509.load_pem_x509_certificate(self.ca.read_bytes())
        now = datetime.now(UTC)
        # A name of its own, so that one authority is never taken for another.
        own_name = f"likering authority {secrets.token_hex(8)}"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, own_name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=_DAYS))
            .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        _write(self.ca, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate


def uri_of(name: str) -> str:
    """The name in the certificate of a holder."""
    return f"spiffe://likering.dev/{name}"


def _kept_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    _write(path, _pem(key))
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Replaces the file as a whole: whoever reads it meanwhile reads the old one or the new one."""
    scratch = path.with_name(f"{path.name}.new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    scratch.replace(path)
