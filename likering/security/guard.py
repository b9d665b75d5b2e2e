"""Lets calls in, or not: the identity behind a call, held against the rule of its method."""

from __future__ import annotations

from typing import Any, Final, Protocol

from likering.errors import NoCredential, NotAnOperator, OtherUser, RoleMissing
from likering.security.identity import CertificateIdentities, Identity
from likering.security.roles import Role, Rule, rule_of
from likering.security.tokens import TokenVerifier

AUTHORIZATION: Final = "authorization"
_BEARER: Final = "bearer "


class Caller(Protocol):
    """The part of a gRPC call that tells who makes it."""

    def invocation_metadata(self) -> Any: ...
    def auth_context(self) -> Any: ...


class Guard:
    """Of one server. A token counts where there is one, else the certificate of the connection."""

    def __init__(self, certificates: CertificateIdentities, tokens: TokenVerifier | None = None) -> None:
        """Without ``tokens`` none is taken, and one that comes is not looked at."""
        self._certificates = certificates
        self._tokens = tokens

    def __repr__(self) -> str:
        return f"<Guard by {self._certificates!r}, {self._tokens!r}>"

    @property
    def version(self) -> tuple[int, int]:
        """Another one when the files of roles or keys have changed: who was let in before may not be any more."""
        return self._certificates.version, self._tokens.version if self._tokens is not None else 0

    def gate(self, method: str) -> Gate:
        """Of a method, by its full name. Raises LookupError when there is no rule for it."""
        return Gate(self, rule_of(method))

    def identify(self, call: Caller) -> Identity:
        """Who calls. Raises NoCredential."""
        if self._tokens is not None:
            for key, value in call.invocation_metadata():
                if key == AUTHORIZATION:
                    if value[: len(_BEARER)].lower() != _BEARER:
                        raise NoCredential
                    return self._tokens.verify(value[len(_BEARER) :].strip())
        identity = self._certificates.of(call.auth_context())
        if identity is None:
            raise NoCredential
        return identity


class Gate:
    """Of one method: ``identify`` who calls, ``check_role``, and once the request is parsed ``check_user``."""

    def __init__(self, guard: Guard, rule: Rule) -> None:
        self._rule = rule
        self._missing = NotAnOperator if rule.roles == {Role.OPERATOR} else RoleMissing
        self.identify = guard.identify

    def __repr__(self) -> str:
        return f"<Gate for {', '.join(sorted(self._rule.roles))}>"

    def check_caller(self, call: Caller) -> None:
        """Raises what ``identify`` and ``check_role`` do: whether a call that was let in would be now."""
        self.check_role(self.identify(call))

    def check_role(self, identity: Identity) -> None:
        """Raises RoleMissing or NotAnOperator when the identity may not make the call."""
        if identity.roles.isdisjoint(self._rule.roles):
            raise self._missing

    def check_user(self, identity: Identity, request: Any) -> None:
        """Raises OtherUser when the request writes in another's name than the identity may."""
        if (
            identity.user is not None
            and self._rule.users is not None
            and any(user != identity.user for user in self._rule.users(request))
        ):
            raise OtherUser
