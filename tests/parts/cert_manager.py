"""Issues what the Certificates of k8s/ ask for, as cert-manager would: with their names, usages and lifetimes."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.parts.manifests import Manifest, of_kind

_USAGES: Final[Mapping[str, x509.ObjectIdentifier]] = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
}
_LIFETIME: Final = "2160h"
"""cert-manager's, where nothing is said."""
LOOPBACK: Final = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
"""Names of this machine, for processes that run here instead of in pods."""


class CertManager:
    """The Issuers of some manifests, and the Secrets of their Certificates."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._certificates = {
            one["spec"]["secretName"]: one["spec"] for one in of_kind(manifests, "Certificate")
        }
        self._issuers = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "Issuer")}
        self._authorities: dict[str, tuple[ec.EllipticCurvePrivateKey, x509.Certificate]] = {}

    def secret(self, name: str, *also: x509.GeneralName) -> dict[str, bytes]:
        """The data of the Secret of that name, anew each time. ``also``: further names of the certificate."""
        spec = self._certificates[name]
        issuer = self._issuers[spec["issuerRef"]["name"]]
        key = ec.generate_private_key(ec.SECP256R1())
        signer, authority = self._authority(issuer["ca"]["secretName"])
        certificate = _certificate(spec, key, signer, authority.subject, also)
        return {
            "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
            "tls.key": _pem(key),
            "ca.crt": authority.public_bytes(serialization.Encoding.PEM),
        }

    def mount(self, name: str, directory: Path, *also: x509.GeneralName) -> None:
        """Writes the Secret's files, as the kubelet mounts them."""
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in self.secret(name, *also).items():
            (directory / file).write_bytes(content)

    def _authority(self, secret: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        if secret not in self._authorities:
            spec = self._certificates[secret]
            assert self._issuers[spec["issuerRef"]["name"]] == {"selfSigned": {}}
            key = ec.generate_private_key(ec.SECP256R1())
            self._authorities[secret] = key, _certificate(spec, key, key, None, ())
        return self._authorities[secret]


def _certificate(
    spec: Mapping[str, Any],
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    also: Sequence[x509.GeneralName],
) -> x509.Certificate:
    assert spec["privateKey"]["algorithm"] == "ECDSA"
    now = datetime.now(UTC)
    lifetime = timedelta(hours=int(spec.get("duration", _LIFETIME).removesuffix("h")))
    common = [x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])] if "commonName" in spec else []
    subject = x509.Name(common)
    is_authority = spec.get("isCA", False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    names = [
        *(x509.UniformResourceIdentifier(uri) for uri in spec.get("uris", ())),
        *(x509.DNSName(name) for name in spec.get("dnsNames", ())),
        *also,
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common)
    extended = [_USAGES[usage] for usage in spec["usages"] if usage in _USAGES]
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
