"""What commands show a secured cluster, by options of ``likering`` itself or from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import typer

from likering.cli.exit_codes import ExitCode, fail
from likering.client.connect import Token
from likering.client.credentials import CredentialFiles
from likering.security.errors import SecurityError


class Credentials(NamedTuple):
    """What channels take."""

    tls: grpc.ChannelCredentials | None
    token: Token | None


_given = CredentialFiles()


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
    _given = CredentialFiles(tls_ca, tls_certificate, tls_key, token_file)


def files_of_command() -> CredentialFiles:
    """Where what the command shows is. A mistake ends it with a sentence."""
    files = _given
    if files.ca is None and files != CredentialFiles():
        fail("--tls-certificate, --tls-key and --token-file go with --tls-ca", ExitCode.USAGE)
    if (files.certificate is None) is not (files.key is None):
        fail("--tls-certificate and --tls-key go together", ExitCode.USAGE)
    return files


def of_command() -> Credentials:
    """What the command that runs was given. A mistake ends it with a sentence."""
    files = files_of_command()
    try:
        return Credentials(files.tls(), files.bearer())
    except (OSError, SecurityError) as error:
        fail(str(error), ExitCode.USAGE)
