"""What commands show a secured cluster, by options of ``likering`` itself or from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import typer

from likering.cli.exit_codes import ExitCode, fail
from likering.client.connect import Token
from likering.client.credentials import credentials_from_files, token_from_file
from likering.security.errors import SecurityError


class Files(NamedTuple):
    """Where it is; None: not given."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: Path | None = None


class Credentials(NamedTuple):
    """What channels take."""

    tls: grpc.ChannelCredentials | None
    token: Token | None


_given = Files()


def options(
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="LIKERING_TLS_CA", help="PEM file: whose certificates of routers are trusted."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(envvar="LIKERING_TLS_CERTIFICATE", help="PEM file: the certificate to show."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="LIKERING_TLS_KEY", help="PEM file: the certificate's key.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="LIKERING_TOKEN_FILE", help="File with a bearer token to send.")
    ] = None,
) -> None:
    """likering: a like service on a ring of Postgres shards."""
    global _given
    _given = Files(tls_ca, tls_certificate, tls_key, token_file)


def of_command() -> Credentials:
    """What the command that runs was given. A mistake ends it with a sentence."""
    files = _given
    if files == Files():
        return Credentials(None, None)
    if files.ca is None:
        fail("--tls-certificate, --tls-key and --token-file go with --tls-ca", ExitCode.USAGE)
    if (files.certificate is None) is not (files.key is None):
        fail("--tls-certificate and --tls-key go together", ExitCode.USAGE)
    try:
        return Credentials(
            credentials_from_files(ca=files.ca, certificate=files.certificate, key=files.key),
            token_from_file(files.token) if files.token is not None else None,
        )
    except (OSError, SecurityError) as error:
        fail(str(error), ExitCode.USAGE)
