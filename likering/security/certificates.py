"""The certificate of a process and the authority whose certificates it takes, as gRPC's credentials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from likering.security.errors import SecurityError
from likering.security.files import Reloaded


class Pems(NamedTuple):
    """In PEM: the chain of a process' certificate, its key, and the authorities of its peers' certificates."""

    chain: bytes
    key: bytes
    authorities: bytes


class Certificates:
    """The same certificate for what a process serves and for what it calls. Both ends show one: mutual TLS.

    Servers use renewed files from the next handshake on. A channel keeps the certificate that it was made with, so
    whoever keeps channels makes new ones when ``version`` has grown.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path) -> None:
        """Raises SecurityError when the files cannot be used."""
        self._files = Reloaded((chain, key, authorities), checked, what="TLS certificate, key and CA")

    def __repr__(self) -> str:
        return f"<Certificates {self._files!r}>"

    @property
    def version(self) -> int:
        """Grows when the files change."""
        return self._files.version

    def for_channel(self) -> grpc.ChannelCredentials:
        """Of a channel that is made now."""
        pems = self._files.value
        return grpc.ssl_channel_credentials(pems.authorities, pems.key, pems.chain)

    def for_server(self, *, callers_have_certificates: bool = True) -> grpc.ServerCredentials:
        """Of a port. Callers without a certificate of the authorities do not get through the handshake, or need none:
        gRPC's servers know nothing in between.
        """

        def configuration() -> grpc.ServerCertificateConfiguration:
            pems = self._files.value
            return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.authorities)

        return grpc.dynamic_ssl_server_credentials(configuration(), configuration, callers_have_certificates)


def checked(contents: Sequence[bytes]) -> Pems:
    """Chain, key and authorities, if they can be used together. Raises SecurityError."""
    pems = Pems(*contents)
    chain = _certificates(pems.chain, "certificate")
    try:
        key = serialization.load_pem_private_key(pems.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SecurityError("the key is not an unencrypted one in PEM") from None
    try:
        of_certificate = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise SecurityError("the certificate's key is of no kind that is known here") from None
    # While files are being replaced one by one.
    if of_certificate != key.public_key():
        raise SecurityError("the key is not that of the certificate")
    _certificates(pems.authorities, "CA")
    return pems


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        raise SecurityError(f"the {what} is not in PEM") from None
