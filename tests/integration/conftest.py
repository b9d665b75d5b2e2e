"""A topology without nodes: its stores, and a RingService over it for the tests of the commands that operators use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial

import grpc
import pytest

from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from tests.integration.topology_database import SLOTS
from tests.parts.ring_commands import Run, likering
from tests.parts.ring_server import RingServer, ring_server


@pytest.fixture
async def cluster_id(database: str) -> str:
    """Of a cluster without nodes, in a topology database of the test's own."""
    return await create_cluster(database, SLOTS)


@pytest.fixture
async def stores(database: str, cluster_id: str) -> AsyncIterator[list[PostgresTopologyStore]]:
    """Stores of five processes, so to say."""
    async with AsyncExitStack() as stack:
        stores = [PostgresTopologyStore(database, timeout=20) for _ in range(5)]
        for store in stores:
            stack.push_async_callback(store.close)
        yield stores


@pytest.fixture
def store(stores: list[PostgresTopologyStore]) -> PostgresTopologyStore:
    """One of them."""
    return stores[0]


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
