"""Every RPC that there is, by everybody, on every port: from the descriptors, without a look at the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import grpc
import pytest

from likering.client.credentials import credentials_from_files
from likering.dev.authority import ADMIN_AUDIENCE, Authority
from likering.dev.cluster import EmbeddedCluster
from likering.dev.securing import Secured
from likering.security.roles import Role
from tests.parts.answers import NO_OPERATOR, NOBODY, NOT_ALLOWED, channel_to, outcome
from tests.parts.services import SERVICES

pytestmark = pytest.mark.timeout(180)

NO_MESSAGE = b"\xff\xff"
"""Whoever is let in is told that this is none: so nothing is done by those who may."""
LET_IN = "INVALID_ARGUMENT MESSAGE_MALFORMED"
NOT_THERE = "UNIMPLEMENTED INTERNAL"

WRITES = {"Like", "Unlike", "MutateLikes"}
CALLERS = {"likering.v1.LikeService"}
OPERATORS = {"likering.admin.v1.RingService", "likering.admin.v1.LikeAdminService"}
NODES = {"likering.shard.v1.ShardService", "likering.shard.v1.ShardAdminService"}


class Port(NamedTuple):
    """What is served there."""

    address: Callable[[EmbeddedCluster], str]
    services: set[str]


PORTS = {
    "callers": Port(lambda cluster: cluster.address, CALLERS),
    "tokens": Port(lambda cluster: cluster.token_address, CALLERS),
    "operators": Port(lambda cluster: cluster.admin_address, OPERATORS),
    "node": Port(lambda cluster: cluster.nodes["a"].address, NODES),
}


class Caller(NamedTuple):
    """A certificate, a token or both, and the roles that they give on the ports where they count."""

    certificate: str
    token: Callable[[Authority], str] | None
    roles: dict[str, set[Role] | None]
    """By port; None: no credential counts there. A port that is not named is not tried."""


BOTH = {Role.READER, Role.WRITER}


def everywhere(*roles: Role) -> dict[str, set[Role] | None]:
    """On the ports that ask for a certificate."""
    return {port: set(roles) for port in ("callers", "operators", "node")}


CALLERS_AND_THEIR_ROLES = {
    "nobody": Caller("", None, {"tokens": None}),
    "a stranger": Caller("stranger", None, everywhere()),
    "an application": Caller("app", None, everywhere(*BOTH)),
    "an operator": Caller("operator", None, everywhere(Role.OPERATOR)),
    "a router": Caller("router", None, everywhere(Role.NODE)),
    "a token": Caller("", lambda authority: authority.token("u1"), {"tokens": BOTH}),
    "a reader's token": Caller(
        "", lambda authority: authority.token("u1", [Role.READER]), {"tokens": {Role.READER}}
    ),
    "a writer's token": Caller(
        "", lambda authority: authority.token("u1", [Role.WRITER]), {"tokens": {Role.WRITER}}
    ),
    "a token of all roles": Caller("", lambda authority: authority.token("u1", list(Role)), {"tokens": BOTH}),
    "an operator's token alone": Caller(
        "", lambda authority: authority.token("olga", list(Role), audience=ADMIN_AUDIENCE), {"tokens": None}
    ),
    # The token counts and not the certificate, but on nodes, which look at none.
    "an application with a reader's token": Caller(
        "app",
        lambda authority: authority.token("u1", [Role.READER]),
        {"callers": {Role.READER}, "operators": None, "node": BOTH},
    ),
    "an application with an operator's token": Caller(
        "app",
        lambda authority: authority.token("olga", list(Role), audience=ADMIN_AUDIENCE),
        {"callers": None, "operators": {Role.OPERATOR}, "node": BOTH},
    ),
    "an operator with a token of all roles": Caller(
        "operator",
        lambda authority: authority.token("u1", list(Role)),
        {"callers": BOTH, "operators": None, "node": {Role.OPERATOR}},
    ),
    "a router with an expired token": Caller(
        "router",
        lambda authority: authority.token("u1", lifetime=timedelta(minutes=-1)),
        {"callers": None, "operators": None, "node": {Role.NODE}},
    ),
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A secured cluster of one node."""
    with EmbeddedCluster(tmp_path_factory.mktemp("secured"), nodes=["a"], slots=8, secure=True) as cluster:
        yield cluster


def role_for(service: str, method: str) -> Role:
    if service in CALLERS:
        return Role.WRITER if method in WRITES else Role.READER
    return Role.OPERATOR if service in OPERATORS else Role.NODE


def expected(port: str, roles: set[Role] | None, service: str, method: str) -> str:
    if service not in PORTS[port].services:
        return NOT_THERE
    if roles is None:
        return NOBODY
    if role_for(service, method) in roles:
        return LET_IN
    return NO_OPERATOR if service in OPERATORS else NOT_ALLOWED


def shown_by(own: Secured, caller: Caller) -> grpc.ChannelCredentials:
    if not caller.certificate:
        return credentials_from_files(ca=own.authority.ca)
    return own.authority.issue(caller.certificate, file=f"who-{caller.certificate}").credentials()


@pytest.mark.parametrize("who", CALLERS_AND_THEIR_ROLES)
def test_every_rpc_is_for_those_who_may_call_it(secured: EmbeddedCluster, who: str) -> None:
    """On the port where it is served; on another one it is not there, whoever asks."""
    own, caller = secured.secured, CALLERS_AND_THEIR_ROLES[who]
    assert own is not None
    token = caller.token(own.authority) if caller.token is not None else ""
    found, wanted = {}, {}
    for port, roles in caller.roles.items():
        with channel_to(PORTS[port].address(secured), shown_by(own, caller)) as channel:
            for service in SERVICES:
                for method in service.methods:
                    key = f"{port}: {service.full_name}/{method.name}"
                    wanted[key] = expected(port, roles, service.full_name, method.name)
                    found[key] = outcome(
                        channel,
                        f"/{service.full_name}/{method.name}",
                        NO_MESSAGE,
                        token,
                        streams=method.server_streaming,
                    )
    assert found == wanted
    assert len(found) >= 40
