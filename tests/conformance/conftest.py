"""The subjects of the suite: both clients, in memory, on a server of the test's own, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.subjects import Likes, Portal, Synchronous
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
