"""Whom the router's ports let in: callers on one, operators on the other, each with credentials of their own."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from likering.security.access import Access
from likering.security.errors import SecurityError
from likering.security.roles import Role
from likering.security.setup import Security, flag
from likering.security.tokens import TokenVerifier
from router.settings import RouterSettings


class RouterAccess(NamedTuple):
    """What callers get through on one port is nothing on the other: tokens for both are for different audiences."""

    callers: Access
    operators: Access


def access_of(settings: RouterSettings, security: Security | None) -> RouterAccess | None:
    """What the settings ask for; None when they ask for nothing. Raises SecurityError when they do by half."""
    _check(settings, security)
    if security is None:
        return None
    callers = _verifier(
        settings, settings.token_audience, {Role.READER, Role.WRITER}, bound_to_user=settings.token_binds_user
    )
    operators = _verifier(settings, settings.token_admin_audience, {Role.OPERATOR})
    return RouterAccess(security.access(callers), security.access(operators))


def _verifier(
    settings: RouterSettings, audience: str | None, roles: Set[Role], *, bound_to_user: bool = False
) -> TokenVerifier | None:
    if settings.token_keys is None or audience is None:
        return None
    return TokenVerifier(
        settings.token_keys,
        audience=audience,
        issuer=settings.token_issuer,
        algorithms=settings.token_algorithms,
        roles_claim=settings.token_roles_claim,
        roles=frozenset(roles),
        bound_to_user=bound_to_user,
    )


def _check(settings: RouterSettings, security: Security | None) -> None:
    audiences = {
        name: value
        for name in ("token_audience", "token_admin_audience")
        if (value := getattr(settings, name)) is not None
    }
    asks_for_tokens = [
        flag(name)
        for name in ("token_keys", "token_listen", "token_issuer", "token_binds_user", *audiences)
        if getattr(settings, name)
    ]
    if not asks_for_tokens:
        return
    if settings.token_keys is None:
        raise SecurityError(f"{asks_for_tokens[0]} is set, but not --token-keys")
    if not audiences:
        raise SecurityError("--token-keys is set, but not --token-audience")
    if len(set(audiences.values())) < len(audiences):
        raise SecurityError(
            "--token-audience and --token-admin-audience are the same: callers would be operators"
        )
    if settings.token_listen is not None and settings.token_audience is None:
        raise SecurityError("--token-listen is set, but not --token-audience")
    if security is None:
        raise SecurityError(
            f"{asks_for_tokens[0]} is set, but not --tls-certificate: without TLS anybody on the way could read tokens"
        )
