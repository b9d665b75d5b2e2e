"""Verifies bearer tokens: JWTs that are signed with one of the keys of a file."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any, Final

import jwt
import structlog

from likering.errors import NoCredential
from likering.security.errors import SecurityError
from likering.security.files import Reloaded
from likering.security.identity import Identity
from likering.security.roles import Role
from likering.throttle import Throttle

_log = structlog.get_logger(__name__)

ALGORITHMS: Final = (
    *("ES256", "ES384", "ES512", "EdDSA"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
)
"""What may be allowed. Never ``none``, and none whose verifiers could make tokens themselves (HS256 and its like)."""
LEEWAY: Final = 5.0
"""Seconds by which the clocks of issuer and verifier may differ."""
_MOST_REMEMBERED: Final = 10_000


class TokenVerifier:
    """The identities behind tokens. What was verified is remembered by its hash until it expires."""

    def __init__(
        self,
        keys: Path,
        *,
        audience: str,
        issuer: str | None = None,
        algorithms: Sequence[str] = ("ES256", "EdDSA", "RS256"),
        roles_claim: str = "roles",
        roles: frozenset[Role] = frozenset({Role.READER, Role.WRITER}),
        bound_to_user: bool = False,
        clock: Callable[[], float] = time,
    ) -> None:
        """``keys``: a JWKS file. ``roles``: those that a token can give here, whatever others it names.

        ``bound_to_user``: a token writes in the name of its subject only. Raises SecurityError.
        """
        self._keys = Reloaded((keys,), _key_set, what="keys of tokens")
        self._version = self._keys.version
        self._audience = audience
        self._issuer = issuer
        self._algorithms = list(algorithms)
        self._roles_claim = roles_claim
        self._roles = roles
        self._bound_to_user = bound_to_user
        self._clock = clock
        self._known: OrderedDict[bytes, Identity] = OrderedDict()
        self._log_lines = Throttle(per_second=5)

    def __repr__(self) -> str:
        return f"<TokenVerifier for {self._audience!r}, {len(self._known)} known>"

    def verify(self, token: str) -> Identity:
        """Whose token it is. Raises NoCredential, which does not say why; a log line does, without the token."""
        if self._version != self._keys.version:
            self._version = self._keys.version
            self._known.clear()  # a key may be gone because somebody else has it
        digest = hashlib.sha256(token.encode()).digest()
        identity = self._known.get(digest)
        if identity is None:
            identity = self._verified(token)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.popitem(last=False)
            self._known[digest] = identity
        elif identity.expires_at <= self._clock():
            del self._known[digest]
            raise self._refused("ExpiredSignatureError")
        return identity

    def _verified(self, token: str) -> Identity:
        try:
            claims = jwt.decode(
                token,
                self._key_of(token),
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise self._refused(type(error).__name__) from None
        subject = str(claims["sub"])
        return Identity(
            name=f"sub:{subject}",
            roles=self._roles & _roles_in(claims.get(self._roles_claim)),
            expires_at=float(claims["exp"]) + LEEWAY,
            user=subject if self._bound_to_user else None,
        )

    def _key_of(self, token: str) -> jwt.PyJWK:
        """The key that the token names; the only one there is, when it names none."""
        keys = self._keys.value
        name = jwt.get_unverified_header(token).get("kid")
        if name is None and len(keys) == 1:
            return next(iter(keys.values()))
        try:
            return keys[name]
        except KeyError:
            raise jwt.InvalidKeyError("no such key") from None

    def _refused(self, why: str) -> NoCredential:
        if (left_out := self._log_lines.admit()) is not None:
            _log.info("token refused", why=why, **({"lines_left_out": left_out} if left_out else {}))
        return NoCredential()


def _key_set(contents: Sequence[bytes]) -> Mapping[str | None, jwt.PyJWK]:
    """By key id, the public keys of a JWKS (RFC 7517). Raises SecurityError."""
    try:
        document = json.loads(contents[0])
        entries = [entry for entry in document["keys"] if entry.get("use", "sig") == "sig"]
        keys = {entry.get("kid"): jwt.PyJWK(entry) for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise SecurityError(f"not a JWKS of public keys ({type(error).__name__})") from None
    if not keys or len(keys) < len(entries) or (len(keys) > 1 and None in keys):
        raise SecurityError("it needs a key, and where there are several each has a kid of its own")
    for key in keys.values():
        if key.key_type == "oct":
            raise SecurityError("it has a symmetric key, with which whoever verifies tokens can make them")
        if hasattr(key.key, "private_bytes"):
            raise SecurityError("it has a private key; only public ones belong here")
    return keys


def _roles_in(claim: Any) -> frozenset[Role]:
    """The roles that a claim names, as a list or separated by spaces; what else it names is not ours."""
    names = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return frozenset(role for role in Role if role in names)
