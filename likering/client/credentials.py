"""What a client shows a secured cluster, from files: a certificate, or a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from likering.security.certificates import checked
from likering.security.files import Reloaded


class CredentialFiles(NamedTuple):
    """Where what is shown is; None: not given. Nothing at all: a cluster without security."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: Path | None = None

    def tls(self) -> grpc.ChannelCredentials | None:
        """Of a channel that is made now. Raises OSError and ValueError."""
        if self.ca is None:
            return None
        return credentials_from_files(ca=self.ca, certificate=self.certificate, key=self.key)

    def bearer(self) -> Callable[[], str] | None:
        """The present token. Raises SecurityError."""
        return token_from_file(self.token) if self.token is not None else None


def credentials_from_files(
    *, ca: str | Path, certificate: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """TLS from PEM files that are read once, for a channel of your own or a client that does not live for long.

    ``ca``: the authorities of the routers' certificates. ``certificate`` and ``key``: what the client shows; without
    them it needs a token, and a port that takes it. Raises OSError when a file cannot be read.
    """
    _together(certificate, key)
    return grpc.ssl_channel_credentials(
        Path(ca).read_bytes(),
        Path(key).read_bytes() if key is not None else None,
        Path(certificate).read_bytes() if certificate is not None else None,
    )


def renewed_credentials(
    *, ca: str | Path, certificate: str | Path | None = None, key: str | Path | None = None
) -> Callable[[], grpc.ChannelCredentials]:
    """The same for ``LikeTracker`` and ``AsyncLikes``, read again when the files change: they connect anew then.

    Files that do not fit together, because only one of them was replaced yet, change nothing. Raises SecurityError when
    they cannot be used at the start.
    """
    _together(certificate, key)

    def load(contents: Sequence[bytes]) -> grpc.ChannelCredentials:
        authorities, *own = contents
        if not own:
            return grpc.ssl_channel_credentials(authorities)
        pems = checked((own[0], own[1], authorities))
        return grpc.ssl_channel_credentials(pems.authorities, pems.key, pems.chain)

    paths = (ca,) if certificate is None or key is None else (ca, certificate, key)
    files = Reloaded(tuple(map(Path, paths)), load, what="TLS certificate, key and CA")
    return lambda: files.value


def token_from_file(path: str | Path) -> Callable[[], str]:
    """A ``token`` for ``LikeTracker`` and ``AsyncLikes`` that is read again when its file changes.

    Raises SecurityError when the file cannot be read.
    """
    file = Reloaded((Path(path),), lambda contents: contents[0].decode().strip(), what="token")
    return lambda: file.value


def _together(certificate: str | Path | None, key: str | Path | None) -> None:
    if (certificate is None) is not (key is None):
        raise ValueError("certificate and key belong together")
