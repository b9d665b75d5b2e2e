"""Makes a cluster larger and smaller through its stores, and waits for the moves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Self

from likering.dev.cluster import EmbeddedCluster
from likering.ring.plan import Plan, plan
from likering.ring.topology import NodeState
from likering.topology.moves import SETTLED, MoveState, SlotMove
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from tests.parts.callers import Callers
from tests.parts.oracle import contradictions
from tests.parts.placement import Placement, left_behind, misplaced, placement_in
from tests.parts.stored import stored_in
from tests.parts.user_side import differences

LOOK = 0.1
"""Seconds between two looks at what nobody tells of."""


class Resizing:
    """Stores of a running cluster, for the operator of a test."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.nodes = PostgresTopologyStore(cluster.topology_dsn)
        self.moves = PostgresMoveStore(cluster.topology_dsn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.moves.close()
        await self.nodes.close()

    async def add(self, *names: str) -> None:
        """Starts new nodes, which own nothing yet; or takes back that they are draining."""
        for name in names:
            if name in self.cluster.nodes:
                await self.nodes.set_node(name, state=NodeState.ACTIVE)
            else:
                await asyncio.to_thread(self.cluster.add_node, name)

    async def drain(self, *names: str) -> None:
        """Says that the nodes are to hold nothing."""
        for name in names:
            await self.nodes.set_node(name, state=NodeState.DRAINING)

    async def begin(self, weights: Mapping[str, int] | None = None) -> tuple[int, Plan]:
        """Applies the plan for the nodes as they are; returns the resize's number."""
        topology = await self.nodes.get()
        wanted = plan(topology, {**topology.weights, **weights} if weights else None)
        return await self.moves.apply(topology.version, wanted.moves, {}, "test", weights=weights), wanted

    async def reached(
        self, resize: int | None, condition: Callable[[Collection[SlotMove]], bool], seconds: float
    ) -> list[SlotMove]:
        """Waits until the moves of a resize (of all: None) are as wanted, and returns them. Else an AssertionError."""
        deadline = time.monotonic() + seconds
        while not condition(moves := await self.moves.moves(resize=resize, ended=True)):
            if time.monotonic() > deadline:
                raise AssertionError(f"after {seconds:.0f} s {by_state(moves)}: {_waiting(moves)[:10]}")
            await asyncio.sleep(LOOK)
        return moves

    async def settled(self, resize: int | None = None, seconds: float = 60.0) -> list[SlotMove]:
        """Waits until every move has been verified, or cancelled."""
        return await self.reached(resize, lambda moves: all(move.state in SETTLED for move in moves), seconds)

    async def cleaned(self, seconds: float = 30.0) -> list[str]:
        """Waits until no move has left anything; returns what is left after so long."""
        return await self._nothing(self._left_behind, seconds)

    async def placement(self) -> Placement:
        """Who has what now."""
        return await placement_in(
            self.cluster.topology_dsn, {name: node.postgres_dsn for name, node in self.cluster.nodes.items()}
        )

    async def check(self, callers: Callers, *, trouble: bool = False, seconds: float = 30.0) -> list[str]:
        """What is wrong once the callers have stopped and the moves are settled: answers, databases, leftovers."""
        left = await self.cleaned(seconds)
        stored = await stored_in([node.postgres_dsn for node in self.cluster.nodes.values()], callers.posts)
        problems = await asyncio.to_thread(contradictions, callers.history, stored, trouble=trouble)
        dsns = [node.postgres_dsn for node in self.cluster.nodes.values()]
        untold = await self._nothing(lambda: differences(dsns), seconds)
        return [*problems, *misplaced(await self.placement()), *left, *untold]

    async def _left_behind(self) -> list[str]:
        unfinished = [
            f"{move} is {move.state}" for move in await self.moves.moves() if move.state is MoveState.VERIFIED
        ]
        return [*unfinished, *left_behind(await self.placement())]

    async def _nothing(self, found: Callable[[], Awaitable[list[str]]], seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while (left := await found()) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(LOOK)
        return left


def _waiting(moves: Iterable[SlotMove]) -> list[str]:
    return [
        f"{move}: {move.state}, attempt {move.attempt}, {move.waits_for or move.last_error}"
        for move in moves
        if move.state not in SETTLED
    ]


def by_state(moves: Iterable[SlotMove]) -> dict[str, int]:
    """How many moves are in which state."""
    return dict(Counter(str(move.state) for move in moves))


def pauses_ms(moves: Iterable[SlotMove]) -> dict[str, float]:
    """p50, p99 and the longest of the pauses, in ms."""
    pauses = sorted(move.pause_us / 1000 for move in moves if move.pause_us)
    if not pauses:
        return {}
    return {
        "p50": pauses[len(pauses) // 2],
        "p99": pauses[min(len(pauses) - 1, int(len(pauses) * 0.99))],
        "max": pauses[-1],
    }
