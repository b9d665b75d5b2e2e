"""Tokens that count, and those that do not."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from likering.dev.authority import AUDIENCE, ISSUER, Authority
from likering.errors import NoCredential
from likering.security import tokens
from likering.security.errors import SecurityError
from likering.security.files import LOOK_SECONDS
from likering.security.roles import Role
from likering.security.tokens import LEEWAY, TokenVerifier

pytestmark = pytest.mark.usefixtures("logging_as_at_first")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "own")


@pytest.fixture
def verifier(authority: Authority) -> TokenVerifier:
    return TokenVerifier(authority.token_keys, audience=AUDIENCE, issuer=ISSUER, bound_to_user=True)


def segment(content: Any) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    expires = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
    all_of_them = {"iss": ISSUER, "aud": AUDIENCE, "sub": "u1", "roles": ["writer"], "exp": expires} | changes
    return {name: value for name, value in all_of_them.items() if value is not None}


def signed(authority: Authority, **changes: Any) -> str:
    """By the key that counts."""
    return jwt.encode(
        claims(**changes), (authority.directory / "tokens.key").read_bytes(), "ES256", {"kid": "dev"}
    )


def test_a_token_is_the_identity_of_its_subject(authority: Authority, verifier: TokenVerifier) -> None:
    identity = verifier.verify(authority.token("u1", [Role.READER]))
    assert (identity.name, identity.user) == ("sub:u1", "u1")
    assert identity.roles == {Role.READER}


def test_a_token_that_is_not_bound_is_for_all_users(authority: Authority) -> None:
    verifier = TokenVerifier(authority.token_keys, audience=AUDIENCE)
    assert verifier.verify(authority.token("service")).user is None


def test_a_token_gives_only_roles_that_are_there_to_be_given(
    authority: Authority, verifier: TokenVerifier
) -> None:
    """Whatever its issuer was talked into: nobody becomes an operator or a node on the port for callers."""
    roles = ["reader", "operator", "node", "emperor"]
    assert verifier.verify(signed(authority, roles=roles)).roles == {Role.READER}
    assert verifier.verify(signed(authority, roles="reader writer")).roles == {Role.READER, Role.WRITER}
    assert verifier.verify(signed(authority, roles=None)).roles == frozenset()
    assert verifier.verify(signed(authority, roles=17)).roles == frozenset()


FORGERIES: dict[str, Callable[[Authority, Path], str]] = {
    "empty": lambda authority, _: "",
    "no token": lambda authority, _: "x.y",
    "binary": lambda authority, _: "\x00\x7f.\x00.\x00",
    "expired": lambda authority, _: authority.token("u1", lifetime=timedelta(seconds=-LEEWAY - 1)),
    "for others": lambda authority, _: authority.token("u1", audience="billing"),
    "for nobody": lambda authority, _: signed(authority, aud=None),
    "of another issuer": lambda authority, _: signed(authority, iss="https://elsewhere"),
    "of no issuer": lambda authority, _: signed(authority, iss=None),
    "for ever": lambda authority, _: signed(authority, exp=None),
    "of nobody": lambda authority, _: signed(authority, sub=None),
    "not yet": lambda authority, _: signed(authority, nbf=int(datetime.now(UTC).timestamp()) + 60),
    "unsigned": lambda authority, _: f"{segment({'alg': 'none', 'kid': 'dev'})}.{segment(claims())}.",
    "unsigned, in other letters": lambda authority, _: (
        f"{segment({'alg': 'nOnE', 'kid': 'dev'})}.{segment(claims())}."
    ),
    "signature cut off": lambda authority, _: authority.token("u1").rpartition(".")[0] + ".",
    "other claims": lambda authority, _: ".".join(
        (authority.token("u1").split(".")[0], segment(claims(sub="u2")), authority.token("u1").split(".")[2])
    ),
    "of another's key": lambda authority, other: Authority(other).token("u1"),
    "of an unknown key": lambda authority, _: jwt.encode(
        claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": "new"}
    ),
    "with a key of its own": lambda authority, _: jwt.encode(
        claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", {"jwk": {"kty": "EC"}, "kid": "dev"}
    ),
    "by an algorithm that is not allowed": lambda authority, _: jwt.encode(
        claims(), ec.generate_private_key(ec.SECP384R1()), "ES384", {"kid": "dev"}
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_token_that_does_not_count(
    authority: Authority, verifier: TokenVerifier, tmp_path: Path, kind: str
) -> None:
    """The caller is not told why; the log says, and has nothing of the token."""
    token = FORGERIES[kind](authority, tmp_path / "other")
    with capture_logs() as lines, pytest.raises(NoCredential) as caught:
        verifier.verify(token)
    assert caught.value.message == NoCredential().message
    (line,) = lines
    assert line["event"] == "token refused"
    assert line["why"]
    said = json.dumps(lines)
    assert not any(part in said for part in token.split(".") if len(part) > 2)


def test_the_public_key_is_no_secret_to_sign_with(authority: Authority, verifier: TokenVerifier) -> None:
    """HS256 with the public key as its secret once fooled many a verifier."""
    content = f"{segment({'alg': 'HS256', 'kid': 'dev'})}.{segment(claims())}"
    signature = hmac.digest(authority.token_keys.read_bytes(), content.encode(), "sha256")
    token = f"{content}.{segment(signature)}"
    with pytest.raises(NoCredential):
        verifier.verify(token)


def test_a_remembered_token_expires(authority: Authority) -> None:
    now = datetime.now(UTC).timestamp()
    verifier = TokenVerifier(authority.token_keys, audience=AUDIENCE, clock=lambda: now)
    token = authority.token("u1", lifetime=timedelta(minutes=1))
    verifier.verify(token)
    now += 60 + LEEWAY - 2
    verifier.verify(token)
    now += 3
    with pytest.raises(NoCredential):
        verifier.verify(token)


def test_a_token_of_a_key_that_is_gone_counts_no_more(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it was verified before."""
    verifier = TokenVerifier(authority.token_keys, audience=AUDIENCE)
    token = authority.token("u1")
    verifier.verify(token)
    Authority(tmp_path / "other").token_keys.replace(authority.token_keys)
    monkeypatch.setattr(verifier._keys, "_looked_at", -LOOK_SECONDS)
    with pytest.raises(NoCredential):
        verifier.verify(token)


def test_what_is_remembered_is_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MOST_REMEMBERED", 3)
    verifier = TokenVerifier(authority.token_keys, audience=AUDIENCE)
    for number in range(5):
        verifier.verify(authority.token(f"u{number}"))
    assert repr(verifier) == "<TokenVerifier for 'likering', 3 known>"


def test_keys_that_cannot_be_trusted_are_refused(authority: Authority, tmp_path: Path) -> None:
    public = json.loads(authority.token_keys.read_bytes())["keys"][0]
    algorithm = jwt.get_algorithm_by_name("ES256")
    files = {
        "symmetric": {"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ", "kid": "x"}]},
        "private": {"keys": [json.loads(algorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))]},
        "needs a key": {"keys": []},
        "kid of its own": {"keys": [public, {key: public[key] for key in public if key != "kid"}]},
        "not a JWKS": {"key": public},
    }
    for sentence, content in files.items():
        path = tmp_path / "keys.json"
        path.write_text(json.dumps(content))
        with pytest.raises(SecurityError, match=sentence):
            TokenVerifier(path, audience=AUDIENCE)
