"""How the peers and the echo serve: plain grpc.aio, several processes on one port, "ready" on standard output."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc.aio

READY = "ready"

Register = Callable[[grpc.aio.Server], None]
Open = Callable[[str], AbstractAsyncContextManager[Register]]
"""Opens what a peer stores in (its URL) and gives what registers its service."""


def main(opens: Open) -> None:
    """Serves until killed: ``--listen HOST:PORT --store URL``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--store", default="")
    arguments = parser.parse_args()
    asyncio.run(_serve(opens, arguments.listen, arguments.store))


async def _serve(opens: Open, listen: str, store: str) -> None:
    async with opens(store) as register:
        # As many streams as the router allows, so that no side's client waits for one.
        options = [("grpc.so_reuseport", 1), ("grpc.max_concurrent_streams", 1024)]
        server = grpc.aio.server(options=options)
        register(server)
        server.add_insecure_port(listen)
        await server.start()
        print(READY, flush=True)
        await server.wait_for_termination()


@asynccontextmanager
async def nothing(_: str) -> AsyncIterator[None]:
    """For a service that stores nothing."""
    yield
