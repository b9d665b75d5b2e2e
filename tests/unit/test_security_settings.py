"""A process that is asked for half of its security does not start, and says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from likering.dev.authority import Authority
from likering.security.errors import SecurityError
from likering.security.setup import security_of
from router.access import access_of
from router.settings import RouterSettings, read


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """All that a secured router needs."""
    authority = Authority(tmp_path)
    authority.give_roles({})
    certificate = authority.issue("router")
    return {
        "tls_certificate": certificate.certificate,
        "tls_key": certificate.key,
        "tls_ca": certificate.ca,
        "tls_roles": authority.roles,
        "token_keys": authority.token_keys,
        "token_audience": "likering",
        "token_admin_audience": "operators",
        "token_listen": "127.0.0.1:0",
    }


def complaint(settings: dict[str, Any]) -> str:
    """Of a router with these settings; empty when it has none."""
    router = RouterSettings.model_validate({"topology": "dbname=x", **settings})
    try:
        access_of(router, security_of(router))
    except SecurityError as error:
        return str(error)
    return ""


def test_all_or_nothing_is_asked_for(files: dict[str, Any]) -> None:
    assert complaint(files) == ""
    router = RouterSettings.model_validate({"topology": "dbname=x"})
    assert security_of(router) is None
    assert access_of(router, None) is None


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_ca", "tls_roles"])
def test_tls_is_configured_as_a_whole(files: dict[str, Any], name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert f"is set, but not {flag}: all of them or none" in complaint(
        {other: files[other] for other in files if other != name}
    )


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        (("token_keys",), "--token-listen is set, but not --token-keys"),
        (("token_audience", "token_admin_audience"), "--token-keys is set, but not --token-audience"),
        (("token_audience",), "--token-listen is set, but not --token-audience"),
        (
            ("tls_certificate", "tls_key", "tls_ca", "tls_roles"),
            "--token-keys is set, but not --tls-certificate: without TLS anybody on the way could read tokens",
        ),
    ],
)
def test_tokens_are_configured_as_a_whole(
    files: dict[str, Any], left_out: tuple[str, ...], sentence: str
) -> None:
    assert complaint({name: files[name] for name in files if name not in left_out}) == sentence


def test_a_rate_of_callers_needs_something_to_tell_them_apart_by(files: dict[str, Any]) -> None:
    assert complaint({**files, "caller_rate": 100}) == ""
    assert complaint({"caller_rate": 100}).startswith("--caller-rate is set, but not --tls-certificate")


def test_callers_and_operators_have_tokens_of_their_own(files: dict[str, Any]) -> None:
    assert "callers would be operators" in complaint({**files, "token_admin_audience": "likering"})


@pytest.mark.parametrize("algorithms", ["none", "HS256", "ES256,HS512", "", "es256"])
def test_signatures_that_prove_nothing_cannot_be_allowed(
    capsys: pytest.CaptureFixture[str], algorithms: str
) -> None:
    with pytest.raises(SystemExit):
        read(["--topology", "dbname=x", "--token-algorithms", algorithms])
    assert "these are allowed: ES256" in capsys.readouterr().err


def test_files_that_are_not_there_are_named(files: dict[str, Any], tmp_path: Path) -> None:
    assert "nowhere.pem cannot be read" in complaint({**files, "tls_ca": tmp_path / "nowhere.pem"})
