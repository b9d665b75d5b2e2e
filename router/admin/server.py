"""The router's second server, for operators: RingService and LikeAdminService, with a port of their own."""

from __future__ import annotations

from typing import Final

from likering.admin.v1 import like_admin_service_pb2, ring_service_pb2
from likering.serving.call_metrics import CallTally
from likering.serving.handlers import ServiceHandlers
from likering.serving.server import Server, ServerSettings
from likering.topology.moves import MoveStore
from likering.topology.store import TopologyStore
from likering.topology.watch import TopologyWatch
from router.admin.changes import Changes
from router.admin.likes.importing import Imports
from router.admin.likes.owners import SlotOwners
from router.admin.likes.service import LikeAdminService
from router.admin.nodes import Nodes
from router.admin.service import RingService

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A plan that moves all 16384 slots has about 1 MiB."""
DEADLINE: Final = 30.0
"""Seconds, for calls that come without one: a check asks every node about every slot."""
SLOW_CALL: Final = 10.0


class AdminServer:
    """Serves operators from ``start`` to ``drain``. The stores and the watch stay the caller's."""

    def __init__(self, store: TopologyStore, moves: MoveStore, watch: TopologyWatch) -> None:
        self._changes = Changes(moves)
        self._nodes = Nodes()
        self._server = Server(
            [
                ServiceHandlers(
                    ring_service_pb2.DESCRIPTOR.services_by_name["RingService"],
                    RingService(store, moves, watch, self._changes, self._nodes),
                    default_deadline=DEADLINE,
                    slow_call=SLOW_CALL,
                ),
                ServiceHandlers(
                    like_admin_service_pb2.DESCRIPTOR.services_by_name["LikeAdminService"],
                    LikeAdminService(watch, SlotOwners(watch, self._nodes), Imports(watch, self._nodes)),
                    default_deadline=DEADLINE,
                    slow_call=SLOW_CALL,
                ),
            ],
            ServerSettings(max_message_bytes=MAX_MESSAGE_BYTES),
        )

    def __repr__(self) -> str:
        return f"<AdminServer {self._server!r}>"

    @property
    def address(self) -> str:
        """host:port, with the port that was bound; empty before the start."""
        return self._server.address

    @property
    def tallies(self) -> list[CallTally]:
        """As Server.tallies."""
        return self._server.tallies

    async def start(self, listen: str) -> None:
        """Listens on ``host:port``. Health says NOT_SERVING. Raises ListenFailed."""
        await self._server.start(listen)
        self._changes.start()

    async def set_serving(self, serving: bool) -> None:
        """What health says."""
        await self._server.set_serving(serving)

    async def drain(self, *, delay: float, grace: float) -> None:
        """As Server.drain; then nothing of this is left."""
        await self._server.drain(delay=delay, grace=grace)
        await self._changes.stop()
        await self._nodes.close()
