"""grpc.health.v1 that is honest at start and lets a server drain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

LIVENESS: Final = "liveness"
"""A name of which health says SERVING for as long as the process answers at all: for whoever restarts one that hangs.

NOT_SERVING asks for no restart: a node that waits for the lead is well.
"""


class Health(health.aio.HealthServicer):
    """The health of the server as a whole ("") and of each service.

    The library's servicer begins as SERVING, and its watchers never end: a server would drain until its grace is over.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._names = ("", *services)
        self._draining = asyncio.Event()

    async def set_serving(self, serving: bool) -> None:
        """Says the same of the server and of all its services."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)
        await self.set(LIVENESS, HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """NOT_SERVING from now on."""
        await self.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """Ends the watchers' streams, and each one that begins from now on."""
        self._draining.set()

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The changes of one status, until the server drains."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, ended):
                task.cancel()
            await asyncio.gather(watching, ended, return_exceptions=True)
