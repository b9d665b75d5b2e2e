"""likering.admin.v1.RingService: what operators ask of the ring, over the stores of the topology and of the moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final

from likering.admin.v1 import ring_service_pb2 as api
from likering.errors import InvalidArgument, NotFound, NotPossible
from likering.ring.topology import NodeState, Topology
from likering.serving.handlers import Call
from likering.shard.v1 import shard_service_pb2 as shard
from likering.topology.moves import SETTLED, MoveLimits, MoveStore, Resize, SlotMove
from likering.topology.store import NodeUnknown, TopologyStore
from likering.topology.watch import TopologyWatch
from router.admin import planning, translate
from router.admin.changes import Changes
from router.admin.check import Check
from router.admin.nodes import Nodes
from router.admin.planning import SlotSize
from router.admin.waiting import SILENT_SECONDS, last_sign, last_words, waiting

WATCH_SECONDS: Final = 1.0
"""A watcher gets a picture at least this often, for the figures that nobody tells of."""
WATCH_PAUSE: Final = 0.1
"""And not more often than this: a burst of transitions is one change to who looks at it."""
CHECK_LOOKS: Final = 5
"""How often a check looks again because something moved while it looked."""
RECENT_RESIZES: Final = 3
"""Whose pauses are what to expect of the next."""
DEFAULT_RESIZES: Final = 20


class RingService:
    """The methods of RingService, for ``likering.serving.handlers``."""

    def __init__(
        self, store: TopologyStore, moves: MoveStore, watch: TopologyWatch, changes: Changes, nodes: Nodes
    ) -> None:
        self._store = store
        self._moves = moves
        self._watch = watch
        self._changes = changes
        self._nodes = nodes

    # The topology

    async def GetTopology(self, request: api.GetTopologyRequest, call: Call) -> api.GetTopologyResponse:
        return api.GetTopologyResponse(topology=translate.topology_message(await self._store.get()))

    async def WatchTopology(
        self, request: api.WatchTopologyRequest, call: Call
    ) -> AsyncGenerator[api.WatchTopologyResponse, None]:
        topology = await self._store.get()
        while True:
            yield api.WatchTopologyResponse(topology=translate.topology_message(topology))
            topology = await self._watch.newer_than(topology.version)

    async def CheckTopology(self, request: api.CheckTopologyRequest, call: Call) -> api.CheckTopologyResponse:
        topology, moves = await self._store.get(), await self._moves.moves()
        for _ in range(CHECK_LOOKS):
            inventories = await self._nodes.inventories(topology)
            seen = (topology.version, [(move.move, move.state, move.attempt) for move in moves])
            topology, moves = await self._store.get(), await self._moves.moves()
            if seen == (topology.version, [(move.move, move.state, move.attempt) for move in moves]):
                break
        answered = {name: held for name, held in inventories.items() if held is not None}
        return api.CheckTopologyResponse(
            findings=Check(topology, moves, answered).findings(),
            unreachable=[name for name in topology.nodes if name not in answered],
        )

    # Plans

    async def PlanResize(self, request: api.PlanResizeRequest, call: Call) -> api.PlanResizeResponse:
        topology = await self._store.get()
        weights = planning.changed_weights(topology, request.weights)
        drafted = planning.draft(topology, weights)
        sources = {move.source for move in drafted.moves if move.source is not None}
        inventories = await self._nodes.inventories(topology, sources)
        sizes = {
            move.slot: size
            for move in drafted.moves
            if (size := _size(inventories.get(move.source or ""), move.slot)) is not None
        }
        plan = planning.plan_message(
            topology, drafted, weights, sizes, await self._moves.limits(), await self._recent_pauses()
        )
        return api.PlanResizeResponse(plan=plan)

    async def ApplyPlan(self, request: api.ApplyPlanRequest, call: Call) -> api.ApplyPlanResponse:
        plan = request.plan
        topology = await self._store.get()
        planning.check_current(plan, topology)
        planning.check_made(plan)
        weights = planning.changed_weights(topology, plan.weights)
        if not plan.moves:
            for name, weight in weights.items():
                await self._store.set_node(name, weight=weight)
            return api.ApplyPlanResponse()
        resize = await self._moves.apply(
            plan.version,
            planning.planned_moves(plan),
            planning.to_json(plan),
            "ring apply",
            weights=weights,
        )
        return api.ApplyPlanResponse(resize=resize)

    async def ListResizes(self, request: api.ListResizesRequest, call: Call) -> api.ListResizesResponse:
        if request.limit < 0:
            raise InvalidArgument("The number of resizes to list is not negative")
        resizes = await self._moves.resizes(
            request.limit or DEFAULT_RESIZES, resize=request.resize if request.resize else None
        )
        if request.resize and not resizes:
            raise _no_resize(request.resize)
        limits = await self._moves.limits()
        return api.ListResizesResponse(resizes=[await self._report(resize, limits) for resize in resizes])

    # Moves

    async def ListMoves(self, request: api.ListMovesRequest, call: Call) -> api.ListMovesResponse:
        limits = await self._moves.limits()
        moves = await self._listed(request.resize, limits)
        return api.ListMovesResponse(moves=moves, limits=translate.limits_message(limits))

    async def WatchMoves(
        self, request: api.WatchMovesRequest, call: Call
    ) -> AsyncGenerator[api.WatchMovesResponse, None]:
        while True:
            seen = self._changes.count
            yield await self._picture(request)
            await asyncio.sleep(WATCH_PAUSE)
            await self._changes.after(seen, WATCH_SECONDS - WATCH_PAUSE)

    async def PauseMoves(self, request: api.PauseMovesRequest, call: Call) -> api.PauseMovesResponse:
        limits = await self._moves.set_limits(paused=True)
        return api.PauseMovesResponse(limits=translate.limits_message(limits))

    async def ResumeMoves(self, request: api.ResumeMovesRequest, call: Call) -> api.ResumeMovesResponse:
        limits = await self._moves.set_limits(paused=False)
        return api.ResumeMovesResponse(limits=translate.limits_message(limits))

    async def CancelMoves(self, request: api.CancelMovesRequest, call: Call) -> api.CancelMovesResponse:
        numbers = set(request.moves)
        if request.lost_node:
            if numbers or request.resize:
                raise InvalidArgument(
                    "Name the moves to cancel, or a lost node whose moves are to end: not both"
                )
            await self._check_lost(request.lost_node)
            given_up = await self._moves.give_up(request.lost_node, "ring cancel")
            return api.CancelMovesResponse(
                moves=self._messages(given_up, given_up, await self._moves.limits())
            )
        if request.resize:
            moves = await self._moves.moves(resize=request.resize, ended=True)
            if not moves:
                raise _no_resize(request.resize)
            numbers |= {move.move for move in moves}
        if not numbers:
            raise InvalidArgument("Name the moves to cancel, or a resize")
        cancelled = await self._moves.cancel(numbers, "ring cancel")
        return api.CancelMovesResponse(moves=self._messages(cancelled, cancelled, await self._moves.limits()))

    async def SetMoveLimits(self, request: api.SetMoveLimitsRequest, call: Call) -> api.SetMoveLimitsResponse:
        changes = {field.name: value for field, value in request.ListFields()}
        _check_limits(changes)
        limits = await self._moves.set_limits(**changes)
        return api.SetMoveLimitsResponse(limits=translate.limits_message(limits))

    async def RevertSlot(self, request: api.RevertSlotRequest, call: Call) -> api.RevertSlotResponse:
        moving = [
            move
            for move in await self._moves.moves()
            if move.slot == request.slot and move.state not in SETTLED
        ]
        if not moving:
            raise NotPossible(f"Slot {request.slot} is not on its way: there is nothing to revert")
        reverted = await self._moves.revert(moving[-1].move, "ring revert-slot")
        return api.RevertSlotResponse(move=translate.move_message(reverted, None))

    # Nodes

    async def AddNode(self, request: api.AddNodeRequest, call: Call) -> api.AddNodeResponse:
        topology = await self._known(request.name)
        if request.weight:
            weights = planning.changed_weights(topology, {request.name: request.weight})
            for name, weight in weights.items():
                topology = await self._store.set_node(name, weight=weight)
        return api.AddNodeResponse(topology=translate.topology_message(topology))

    async def DrainNode(self, request: api.DrainNodeRequest, call: Call) -> api.DrainNodeResponse:
        topology = await self._known(request.name)
        if list(topology.weights) == [request.name]:
            raise NotPossible(
                f"Node {request.name} is the only active node, so its slots would have nowhere to go: add another"
            )
        topology = await self._store.set_node(request.name, state=NodeState.DRAINING)
        return api.DrainNodeResponse(topology=translate.topology_message(topology))

    async def UndrainNode(self, request: api.UndrainNodeRequest, call: Call) -> api.UndrainNodeResponse:
        topology = await self._store.set_node(request.name, state=NodeState.ACTIVE)
        return api.UndrainNodeResponse(topology=translate.topology_message(topology))

    async def RemoveNode(self, request: api.RemoveNodeRequest, call: Call) -> api.RemoveNodeResponse:
        if request.lost:
            await self._check_lost(request.name)
            await self._moves.give_up(request.name, "node remove", remove=True)
            topology = await self._store.get()
        else:
            topology = await self._store.remove_node(request.name)
        return api.RemoveNodeResponse(topology=translate.topology_message(topology))

    async def RemoveReplica(self, request: api.RemoveReplicaRequest, call: Call) -> api.RemoveReplicaResponse:
        topology = await self._store.remove_replica(request.address)
        return api.RemoveReplicaResponse(topology=translate.topology_message(topology))

    # What several of them need

    async def _known(self, name: str) -> Topology:
        topology = await self._store.get()
        if name not in topology.nodes:
            raise NodeUnknown.of(name, topology.nodes)
        return topology

    async def _check_lost(self, name: str) -> None:
        """Raises NodeUnknown, and NotPossible for a node that is there after all."""
        address = (await self._known(name)).nodes[name].address
        if await self._nodes.answers(address):
            raise NotPossible(
                f"Node {name} is not lost: its process answers at {address}. If its database is, stop the process first"
            )
        age = last_sign(await self._moves.moves(), name)
        if age is not None and age < SILENT_SECONDS:
            raise NotPossible(f"Node {name} is not lost: it has given a sign {age:.1f} s ago")

    async def _listed(self, resize: int, limits: MoveLimits) -> list[api.Move]:
        """The moves of a resize, or for 0 all that have not ended."""
        unended = await self._moves.moves()
        moves = await self._moves.moves(resize=resize, ended=True) if resize else unended
        if resize and not moves:
            raise _no_resize(resize)
        return self._messages(moves, unended, limits)

    def _messages(
        self, moves: Iterable[SlotMove], unended: Iterable[SlotMove], limits: MoveLimits
    ) -> list[api.Move]:
        words = last_words(unended)
        return [translate.move_message(move, waiting(move, limits, words)) for move in moves]

    async def _picture(self, request: api.WatchMovesRequest) -> api.WatchMovesResponse:
        topology, limits = await self._store.get(), await self._moves.limits()
        response = api.WatchMovesResponse(
            moves=await self._listed(request.resize, limits),
            limits=translate.limits_message(limits),
            nodes=translate.node_messages(topology),
        )
        if request.loads:
            for name, load in (await self._nodes.loads(topology)).items():
                message = response.loads.add(name=name, reachable=load is not None)
                if load is not None:
                    message.rows = load.rows
                    message.writes_per_second = load.writes_per_second
                    message.write_p99 = load.write_p99
        return response

    async def _report(self, resize: Resize, limits: MoveLimits) -> api.Resize:
        moves = await self._moves.moves(resize=resize.resize, ended=True)
        return translate.resize_message(
            resize.resize,
            resize.created_at,
            planning.from_json(resize.plan),
            self._messages(moves, await self._moves.moves(), limits),
            await self._moves.events([move.move for move in moves]),
        )

    async def _recent_pauses(self) -> Sequence[int]:
        return [
            move.pause_us
            for resize in await self._moves.resizes(RECENT_RESIZES)
            for move in await self._moves.moves(resize=resize.resize, ended=True)
            if move.pause_us
        ]


def _size(inventory: shard.GetInventoryResponse | None, slot: int) -> SlotSize | None:
    if inventory is None:
        return None
    return next((SlotSize(row.rows, row.bytes) for row in inventory.slots if row.slot == slot), None)


def _check_limits(changes: dict[str, int]) -> None:
    """Raises InvalidArgument for what the topology database would not take."""
    lowest = {
        "slots_at_once": 1,
        "rows_per_second": 0,
        "pause_budget_ms": 1,
        "grace_seconds": 0,
        "verify_rows_per_second": 0,
    }
    for name, value in changes.items():
        if value < lowest[name]:
            raise InvalidArgument(f"{name} is at least {lowest[name]}, not {value}")
    if changes.get("slots_at_once", 1) > 64:
        raise InvalidArgument(f"slots_at_once is at most 64, not {changes['slots_at_once']}")


def _no_resize(resize: int) -> NotFound:
    return NotFound(f"There is no resize {resize}; likering ring history lists those there were")
