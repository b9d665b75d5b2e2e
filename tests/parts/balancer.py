"""A balancer of connections in front of several servers, as a Service of Kubernetes is one: it looks into none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Balancer:
    """Gives each new connection to the next of its ``servers``, which may change."""

    def __init__(self) -> None:
        self.servers: list[str] = []
        self.given: Counter[str] = Counter()
        """Connections so far, by server."""
        self.address = ""
        self._turn = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Brings the bytes of one connection to its server and back."""
        server = self.servers[self._turn % len(self.servers)]
        self._turn += 1
        self.given[server] += 1
        host, _, port = server.rpartition(":")
        try:
            there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as both_ways:
            both_ways.create_task(_carry(reader, back))
            both_ways.create_task(_carry(there, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What one says to the other, until it says no more."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def balancer(*servers: str) -> AsyncIterator[Balancer]:
    """One that listens."""
    balancer = Balancer()
    balancer.servers += servers
    listening = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    balancer.address = f"{host}:{port}"
    try:
        yield balancer
    finally:
        listening.close()
