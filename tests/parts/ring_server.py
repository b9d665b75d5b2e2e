"""RingService over a real topology database, in a thread of its own: for commands, which block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from likering.errors import LikeringError
from likering.ring.placement import place
from likering.ring.topology import Topology
from likering.serving import logging
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server
from likering.shard.v1 import shard_service_pb2 as shard
from likering.topology.moves import MoveState, SlotMove
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from likering.topology.postgres_moves import PostgresMoveStore
from likering.topology.watch import TopologyWatch
from router.admin.server import AdminServer
from tests.parts.registration import registration

T = TypeVar("T")

SLOTS = 8
NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""
_WAY = (MoveState.CATCHING_UP, MoveState.FREEZING, MoveState.ACTIVATING, MoveState.ACTIVE)


class RingServer:
    """What runs. ``run`` does something on its event loop; the other methods are for that."""

    def __init__(self, dsn: str, loop: asyncio.AbstractEventLoop) -> None:
        self.store = PostgresTopologyStore(dsn)
        self.moves = PostgresMoveStore(dsn)
        self._loop = loop
        self._watch = TopologyWatch(PostgresTopologyStore(dsn))
        self._server = AdminServer(self.store, self.moves, self._watch)

    @property
    def address(self) -> str:
        return self._server.address

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """To its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @contextmanager
    def meanwhile(self, work: Coroutine[Any, Any, Any]) -> Iterator[None]:
        """While the block runs; cancelled after it. An error of it is raised then."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            yield
        finally:
            if not running.done():
                running.cancel()
            elif error := running.exception():
                raise error

    async def start(self) -> None:
        self._watch.begin()
        await self._server.start("127.0.0.1:0")
        await self._server.set_serving(True)

    async def stop(self) -> None:
        await self._server.drain(delay=0, grace=5)
        await self._watch.stop()
        await self._watch._store.close()
        await self.moves.close()
        await self.store.close()

    async def nodes(self, *names: str, assign: bool = True, address: str = NOWHERE) -> Topology:
        """Registers nodes; slots without an owner are then given to all there are."""
        for name in names:
            topology = await self.store.register(registration(name, address=address))
        if assign and topology.unowned:
            owners = place(topology.owners, topology.weights, move_owned=False)
            first = {slot: owner for slot in topology.unowned if (owner := owners[slot]) is not None}
            topology = await self.store.assign(topology.version, first)
        return topology

    async def take(self, move: SlotMove, to: MoveState, **facts: Any) -> SlotMove:
        """Leads a planned move as its nodes would, up to a state; ``facts`` are noted on the way."""
        assert await self.moves.begin(move, move.target) == ""
        move = await self.moves.move(move.move)
        for state in (*_WAY[:2], MoveState.COMMITTED, *_WAY[2:], MoveState.MOVED, MoveState.VERIFIED):
            if move.state is to:
                break
            if state is MoveState.COMMITTED:
                move = await self.moves.commit(move, state, move.target, {})
            else:
                move = await self.moves.advance(move, state, move.target, {"step": state.value}, **facts)
        assert move.state is to
        return move

    async def take_all(self, to: MoveState = MoveState.VERIFIED, **facts: Any) -> None:
        """Leads every planned move there is, and each that comes, until cancelled."""
        async for _ in self.moves.changes():
            for move in await self.moves.moves():
                if move.state is MoveState.PLANNED:
                    with suppress(LikeringError):  # cancelled this very moment
                        await self.take(move, to, **facts)

    async def when_moving(self, work: Callable[[list[SlotMove]], Awaitable[Any]]) -> None:
        """Does something as soon as there are moves."""
        async for _ in self.moves.changes():
            if moves := await self.moves.moves():
                await work(moves)
                return


@contextmanager
def ring_server(dsn: str) -> Iterator[RingServer]:
    """A cluster of eight slots without nodes, and the service for its operators."""
    # On stderr, and only what a test should fail for: a command's stdout is the whole process's.
    logging.configure("test", "error")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="ring server")
    thread.start()

    async def make() -> RingServer:
        await create_cluster(dsn, SLOTS)
        server = RingServer(dsn, loop)
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(make(), loop).result(60)
        try:
            yield server
        finally:
            server.run(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class FakeNode:
    """A shard node that tells what a test says it holds and does."""

    def __init__(self) -> None:
        self.inventory = shard.GetInventoryResponse()
        self.load = shard.GetLoadResponse()
        service = shard.DESCRIPTOR.services_by_name["ShardService"]
        self._server = Server([ServiceHandlers(service, self)])

    def __getattr__(self, name: str) -> Any:
        method = shard.DESCRIPTOR.services_by_name["ShardService"].methods_by_name.get(name)
        if method is None:
            raise AttributeError(name)

        async def unused(request: Any, call: Call) -> Any: ...

        async def unused_stream(request: Any, call: Call) -> AsyncGenerator[Any, None]:
            return
            yield

        return unused_stream if method.server_streaming else unused

    @property
    def address(self) -> str:
        return self._server.address

    async def start(self) -> None:
        await self._server.start("127.0.0.1:0")

    async def stop(self) -> None:
        await self._server.drain(delay=0, grace=1)

    def hold(self, slots: Mapping[int, int], *, rows: int = 0, size: int = 0) -> None:
        """Owns these slots at these epochs."""
        for slot, epoch in slots.items():
            self.inventory.slots.add(slot=slot, epoch=epoch, state="owner", rows=rows, bytes=size)

    async def GetInventory(
        self, request: shard.GetInventoryRequest, call: Call
    ) -> shard.GetInventoryResponse:
        return self.inventory

    async def GetLoad(self, request: shard.GetLoadRequest, call: Call) -> shard.GetLoadResponse:
        return self.load
