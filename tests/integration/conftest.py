"""A RingService on an empty topology, for the tests of the commands that operators use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc
import pytest

from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from tests.parts.ring_commands import Run, likering
from tests.parts.ring_server import RingServer, ring_server


@pytest.fixture
def server(database: str) -> Iterator[RingServer]:
    """RingService over a topology database of the test's own."""
    with ring_server(database) as server:
        yield server


@pytest.fixture
def run(server: RingServer) -> Run:
    """Runs ``likering …`` on the server; its stdin is no terminal."""
    return partial(likering, server.address)


@pytest.fixture
def stub(server: RingServer) -> Iterator[RingServiceStub]:
    """Calls the server without a command."""
    with grpc.insecure_channel(server.address) as channel:
        yield RingServiceStub(channel)
