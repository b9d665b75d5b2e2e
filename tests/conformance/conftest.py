"""The subjects of the suite: both clients, in memory, on a server of the test's own, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import grpc
import pytest

from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from tests.conformance.subjects import Likes, Portal, Synchronous, memory_of
from tests.parts.like_server import LikeServer

SUBJECTS = [
    f"{client}-{place}" for place in ("memory", "server", "cluster") for client in ("tracker", "async")
]


@pytest.fixture(scope="session")
def like_server() -> Iterator[LikeServer]:
    with LikeServer() as server:
        yield server


@pytest.fixture(params=("server", "cluster"))
def address(request: pytest.FixtureRequest) -> str:
    """host:port of each place that speaks gRPC."""
    return _address(request, request.param) or ""


class Operator(Protocol):
    """Erases likes where the subject has them."""

    def purge_post(self, post_id: str) -> None: ...
    def purge_user(self, user_id: str) -> None: ...


class ClusterOperator:
    """By LikeAdminService."""

    def __init__(self, stub: LikeAdminServiceStub) -> None:
        self._stub = stub

    def purge_post(self, post_id: str) -> None:
        *_, last = self._stub.PurgePost(api.PurgePostRequest(post_id=post_id))
        assert last.receipts

    def purge_user(self, user_id: str) -> None:
        *_, last = self._stub.PurgeUser(api.PurgeUserRequest(user_id=user_id))
        assert last.receipts


@pytest.fixture
def operator(request: pytest.FixtureRequest, likes: Likes) -> Iterator[Operator]:
    """Of the place that the subject speaks to."""
    place = request.node.callspec.params["likes"].partition("-")[2]
    if place == "cluster":
        with grpc.insecure_channel(request.getfixturevalue("cluster").admin_address) as channel:
            yield ClusterOperator(LikeAdminServiceStub(channel))
    elif place == "server":
        yield request.getfixturevalue("like_server").memory
    else:
        yield memory_of(likes)


@pytest.fixture(params=SUBJECTS)
def likes(request: pytest.FixtureRequest) -> Iterator[Likes]:
    """Each kind of client in each place, in turn."""
    client, _, place = request.param.partition("-")
    address = _address(request, place)
    if client == "tracker":
        with Synchronous(address, timeout=30.0) as tracker:
            yield tracker
    else:
        portal = Portal(address)
        yield portal  # its methods are those of AsyncLikes, found at run time
        portal.close()


def _address(request: pytest.FixtureRequest, place: str) -> str | None:
    if place == "memory":
        return None
    running = request.getfixturevalue("like_server" if place == "server" else "cluster")
    return str(running.address)
