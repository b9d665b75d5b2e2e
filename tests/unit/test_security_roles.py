"""The table of RPCs and roles: it has every RPC that is served, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from likering.security.roles import RULES, Role, rule_of
from likering.v1 import like_service_pb2
from tests.parts.services import FILES, SERVICES

PROTOS = Path(__file__).parents[2] / "protos"
LIBRARIES: list[Any] = [
    service
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
]
METHODS = [
    f"{service.full_name}/{method.name}" for service in (*SERVICES, *LIBRARIES) for method in service.methods
]
ROLES = {
    "likering.v1": {Role.READER, Role.WRITER},
    "likering.admin.v1": {Role.OPERATOR},
    "likering.shard.v1": {Role.NODE},
}


def test_every_rpc_has_a_rule_and_every_rule_an_rpc() -> None:
    """A new RPC cannot be served before somebody has decided who may call it."""
    assert set(METHODS) == RULES.keys()


def test_no_proto_file_with_a_service_is_left_out() -> None:
    with_services = {
        str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto") if "\nservice " in path.read_text()
    }
    assert with_services == {file.name for file in FILES}


def test_what_has_no_rule_is_not_served() -> None:
    with pytest.raises(LookupError, match=r"likering\.v1\.LikeService/Superlike has no rule"):
        rule_of("likering.v1.LikeService/Superlike")


@pytest.mark.parametrize("method", [method for method in METHODS if method.startswith("likering.")])
def test_a_service_is_for_roles_of_its_own(method: str) -> None:
    """No credential for callers is good for operators or nodes, and the other way round."""
    package = method.split("/")[0].rpartition(".")[0]
    rule = rule_of(method)
    assert rule.roles <= ROLES[package]
    assert len(rule.roles) == 1
    assert not rule.anybody


def test_anybody_may_ask_for_health_and_for_nothing_else() -> None:
    assert {method for method in METHODS if rule_of(method).anybody} == {
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.health.v1.Health/List",
    }


def test_writes_name_the_users_that_they_are_for() -> None:
    """So that a token can be bound to one."""
    writes = [method for method in METHODS if Role.WRITER in rule_of(method).roles and "likering" in method]
    assert all(rule_of(method).users is not None for method in writes)
    users = rule_of("likering.v1.LikeService/MutateLikes").users
    assert users is not None
    mutations = [like_service_pb2.LikeMutation(user_id=user) for user in ("u1", "u2")]
    assert list(users(like_service_pb2.MutateLikesRequest(mutations=mutations))) == ["u1", "u2"]
