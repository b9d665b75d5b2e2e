"""What a client shows a secured cluster, from files: a certificate, or a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from likering.security.files import Reloaded


def credentials_from_files(
    *, ca: str | Path, certificate: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """TLS for ``LikeTracker`` and ``AsyncLikes``, from PEM files.

    ``ca``: the authorities of the routers' certificates. ``certificate`` and ``key``: what the client shows; without
    them it needs a token, and a port that takes it. The files are read once: a client that is to show a renewed
    certificate is made anew. Raises OSError when a file cannot be read.
    """
    if (certificate is None) is not (key is None):
        raise ValueError("certificate and key belong together")
    return grpc.ssl_channel_credentials(
        Path(ca).read_bytes(),
        Path(key).read_bytes() if key is not None else None,
        Path(certificate).read_bytes() if certificate is not None else None,
    )


def token_from_file(path: str | Path) -> Callable[[], str]:
    """A ``token`` for ``LikeTracker`` and ``AsyncLikes`` that is read again when its file changes.

    Raises SecurityError when the file cannot be read.
    """
    file = Reloaded((Path(path),), lambda contents: contents[0].decode().strip(), what="token")
    return lambda: file.value
