"""Resizes clusters under load: pauses, what callers notice, how fast rows move. Every write is checked afterwards."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psycopg
from psycopg.sql import SQL, Identifier

from comparison import check
from likering.bench.choices import Keys
from likering.bench.histogram import Histogram
from likering.bench.load import Load, run_load
from likering.bench.results import LoadResult, Written
from likering.bench.workload import Op, Workload
from likering.dev.cluster import EmbeddedCluster
from likering.ring.placement import quotas
from likering.ring.plan import plan
from likering.ring.topology import Node, NodeState, Topology
from likering.topology.moves import SETTLED, MoveEvent, MoveState, SlotMove
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore

T = TypeVar("T")
Say = Callable[[str], None]

_LOOK = 0.5
_PATIENCE = 600.0


@dataclass
class Resized:
    """One resize: its moves as they were when all had been verified, and how long that took."""

    moves: list[SlotMove]
    minimum: int
    seconds: float
    balanced: bool


@dataclass
class Foreground:
    """What callers saw during a part of a run."""

    latency: Histogram = field(default_factory=Histogram)
    calls: int = 0
    errors: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, result: LoadResult) -> None:
        """Adds a load."""
        self.latency = Histogram.merged([self.latency, *(op.latency for op in result.ops.values())])
        self.calls += result.calls
        self.errors += result.errors
        self.messages += [f"{count} × {message}" for message, count in result.messages.items()]

    def percentile(self, percent: float) -> float:
        """A latency in ms."""
        return self.latency.percentile(percent) / 1000


class Ring:
    """A running embedded cluster that is resized."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.topology = PostgresTopologyStore(cluster.topology_dsn)
        self.moves = PostgresMoveStore(cluster.topology_dsn)
        self.prefix = secrets.token_hex(2) + "00"
        self.written = Written()
        self._next_user = 0

    async def close(self) -> None:
        """Gives the stores back."""
        await self.topology.close()
        await self.moves.close()

    async def load(self, **options: Any) -> LoadResult:
        """Runs a load and remembers what it wrote."""
        keys, mix, batch = (options.pop(name, default) for name, default in _WORKLOAD.items())
        workload = Workload(self.prefix, mix, keys=keys, posts=20_000, batch=batch)
        outcome = await run_load(
            Load(address=self.cluster.address, workload=workload, first_user=self._next_user, **options)
        )
        self._next_user = outcome.next_user
        self.written.add(outcome.result.written)
        return outcome.result

    async def resize(self, weights: Mapping[str, int] | None = None) -> Resized:
        """Brings the slots onto the active nodes (or those of ``weights``) and waits until all moves are verified."""
        before = await self.topology.get()
        wanted = plan(before, weights)
        began = time.monotonic()
        resize = await self.moves.apply(
            before.version, wanted.moves, {"version": before.version}, "benchmark"
        )
        moves = await self._settled(resize)
        seconds = time.monotonic() - began
        after = await self.topology.get()
        held = {name: len(after.slots_of(name)) for name in wanted.after.shares}
        quota = quotas(weights or before.weights, before.slot_count, held)
        return Resized(moves, wanted.minimum, seconds, all(held[name] == quota.get(name, 0) for name in held))

    async def turn(self, state: NodeState, *names: str) -> Resized:
        """Gives nodes a state, and the slots to those that are active then."""
        for name in names:
            await self.topology.set_node(name, state=state)
        return await self.resize()

    async def _settled(self, resize: int) -> list[SlotMove]:
        until = time.monotonic() + _PATIENCE
        while True:
            moves = await self.moves.moves(resize=resize, ended=True)
            if all(move.state in SETTLED for move in moves):
                return moves
            if time.monotonic() > until:
                waiting = [str(move) for move in moves if move.state not in SETTLED]
                raise RuntimeError(f"not settled after {_PATIENCE:.0f} s: {waiting}")
            await asyncio.sleep(_LOOK)

    def problem(self) -> str | None:
        """What the databases of the nodes and the acknowledged writes cannot both be right about."""
        dsns = [node.postgres_dsn for node in self.cluster.nodes.values()]
        return check.in_nodes(dsns, self.prefix).problem(self.written)


_WORKLOAD: Mapping[str, Any] = {"keys": Keys.SPREAD, "mix": {Op.LIKE: 1, Op.COUNT: 1}, "batch": 500}
_FILL = {Op.MUTATE: 1}


@asynccontextmanager
async def ring(directory: Path, say: Say, **options: Any) -> Any:
    """A cluster of its own, and a ring on it."""
    cluster = EmbeddedCluster(directory, progress=say, **options)
    await asyncio.to_thread(cluster.start)
    one = Ring(cluster)
    try:
        yield one
    finally:
        await one.close()
        await asyncio.to_thread(cluster.stop)


async def under_load(
    directory: Path, say: Say, *, load: float, likes: int, slots: int, handoffs: int
) -> dict[str, Any]:
    """3 → 4 → 5 → 3 nodes with default limits while calls come at a steady rate, until so many slots have moved.

    ``load``: the rate, as a part of what five nodes can do: on one machine a larger ring can do less than a small one,
    and no ring of the run is to carry a larger part than this.
    """
    async with ring(directory, say, nodes=3, slots=slots) as one:
        for name in ("d", "e"):
            # Before anything is measured: making a database is not what a resize costs its callers.
            await asyncio.to_thread(one.cluster.add_node, name)
            await one.topology.set_node(name, state=NodeState.DRAINING)
        while one.written.likes < likes:
            await one.load(mix=_FILL, seconds=1.0, warmup=0.1, in_flight=16)
        say(f"{one.written.likes:,} likes stored")
        await one.turn(NodeState.ACTIVE, "d", "e")
        capacity = (await one.load(seconds=8.0, warmup=2.0, in_flight=256)).calls_per_second
        await one.turn(NodeState.DRAINING, "d", "e")
        rate = load * capacity
        say(f"{capacity:,.0f} calls/s are possible, {rate:,.0f} are made")
        before, during = Foreground(), Foreground()
        before.add(await one.load(rate=rate, seconds=60.0, warmup=2.0))
        say(f"before: p50 {before.percentile(50):.1f}, p99 {before.percentile(99):.1f} ms")
        steps: list[tuple[str, Resized]] = []

        async def steps_of_resize() -> None:
            while sum(len(resized.moves) for _, resized in steps) < handoffs:
                for what, names, state in (
                    ("3 to 4", ("d",), NodeState.ACTIVE),
                    ("4 to 5", ("e",), NodeState.ACTIVE),
                    ("5 to 3", ("d", "e"), NodeState.DRAINING),
                ):
                    resized = await one.turn(state, *names)
                    steps.append((what, resized))
                    say(f"{what} nodes: {len(resized.moves)} slots in {resized.seconds:.1f} s")

        # Not in short pieces: each begins with the start of a process, which is no load that callers make.
        await _while(steps_of_resize(), lambda: one.load(rate=rate, seconds=15.0, warmup=0.0), during)
        moves = [move for _, resized in steps for move in resized.moves]
        events = await one.moves.events([move.move for move in moves])
        aborted = _aborted_freezes(events)
        pauses = sorted([(move.pause_us or 0) / 1000 for move in moves] + aborted)
        return {
            "capacity calls/s": capacity,
            "rate calls/s": rate,
            "calls": during.calls,
            "failed": during.errors,
            "messages": during.messages[:5],
            "p50 before ms": before.percentile(50),
            "p50 during ms": during.percentile(50),
            "p99 before ms": before.percentile(99),
            "p99 during ms": during.percentile(99),
            "p99 during ÷ before": during.percentile(99) / before.percentile(99),
            "pause p50 ms": median(pauses),
            "pause p99 ms": pauses[min(len(pauses) - 1, int(len(pauses) * 0.99))],
            "pause max ms": pauses[-1],
            "pause by step, p50 ms": _by_step(events, 0.5),
            "pause by step, p99 ms": _by_step(events, 0.99),
            "aborted freezes": len(aborted),
            "slots moved": len(moves),
            "slots moved ÷ minimum": len(moves) / sum(resized.minimum for _, resized in steps),
            "balanced": all(resized.balanced for _, resized in steps),
            "seconds": sum(resized.seconds for _, resized in steps),
            "rows moved": sum(move.rows_copied for move in moves),
            "likes": one.written.likes,
            "problem": one.problem(),
        }


def _aborted_freezes(events: Sequence[MoveEvent]) -> list[float]:
    """How long each of them lasted, in ms: from before the freeze until the end of the attempt was certain."""
    began = {(event.move, event.attempt): event.at for event in events if event.state is MoveState.FREEZING}
    return [
        (event.at - began[event.move, event.attempt]).total_seconds() * 1000
        for event in events
        if event.state is MoveState.ABORTED
    ]


def _by_step(events: Sequence[MoveEvent], share: float) -> dict[str, float]:
    """For each step of a pause: milliseconds from the freeze until it was done, in so many of the moves."""
    ends: dict[str, list[float]] = {}
    for event in events:
        for step, ms in event.detail.get("pause_ms", {}).items():
            ends.setdefault(step, []).append(ms)
    return {step: sorted(all_ms)[int((len(all_ms) - 1) * share)] for step, all_ms in ends.items()}


def _seconds_by_state(events: Sequence[MoveEvent]) -> dict[str, float]:
    """How long one move was in each state, all its attempts together."""
    seconds: dict[str, float] = {}
    for event, following in pairwise(events):
        state = str(event.state)
        seconds[state] = seconds.get(state, 0.0) + (following.at - event.at).total_seconds()
    return seconds


async def _while(
    work: Awaitable[None], load: Callable[[], Awaitable[LoadResult]], foreground: Foreground
) -> None:
    """Repeats a load for as long as the work lasts."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            foreground.add(await load())
    finally:
        await task


async def copy_rate(directory: Path, say: Say, *, likes: int) -> dict[str, Any]:
    """Rows a second of moves without a limit, beside a binary COPY of the same tables piped from server to server."""
    async with ring(directory, say, nodes=1, slots=4) as one:
        await asyncio.to_thread(one.cluster.add_node, "b")
        await one.moves.set_limits(rows_per_second=0, slots_at_once=1)
        while one.written.likes < likes:
            await one.load(mix=_FILL, seconds=1.0, warmup=0.1, in_flight=16)
        nodes = one.cluster.nodes
        with psycopg.connect(nodes["a"].postgres_dsn, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        topology = await one.topology.get()
        slots = [move.slot for move in plan(topology).moves]
        piped = [
            await asyncio.to_thread(_piped, nodes["a"].postgres_dsn, nodes["b"].postgres_dsn, slot)
            for slot in slots
        ]
        resized = await one.resize()
        rates = []
        for move in resized.moves:
            at = {event.state: event.at for event in await one.moves.events([move.move])}
            rates.append(
                move.rows_copied / (at[MoveState.CATCHING_UP] - at[MoveState.COPYING]).total_seconds()
            )
        return {
            "rows": [move.rows_copied for move in resized.moves],
            "rows/s moved": median(rates),
            "rows/s piped": median(piped),
            "moved ÷ piped": median(rates) / median(piped),
            "problem": one.problem(),
        }


def _piped(source: str, target: str, slot: int) -> float:
    """Rows a second of COPY, binary, from one server into tables of the same shape on the other one."""
    options = "-csearch_path=likering"
    with (
        psycopg.connect(source, options=options, autocommit=True) as reading,
        psycopg.connect(target, options=options, autocommit=True) as writing,
    ):
        rows, began = 0, time.monotonic()
        for parent in ("edges", "posts", "user_likes"):
            scratch = Identifier(f"scratch_{parent}_{slot}")
            writing.execute(
                SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(scratch, Identifier(parent))
            )
            out = SQL("COPY {} TO STDOUT (FORMAT binary)").format(Identifier(f"{parent}_s{slot}"))
            into = SQL("COPY {} FROM STDIN (FORMAT binary)").format(scratch)
            with reading.cursor() as cursor, writing.cursor() as other:
                with cursor.copy(out) as source_copy, other.copy(into) as target_copy:
                    for data in source_copy:
                        target_copy.write(data)
                rows += other.rowcount
            writing.execute(SQL("DROP TABLE {}").format(scratch))
        return rows / (time.monotonic() - began)


async def empty_slots(directory: Path, say: Say) -> dict[str, Any]:
    """32 slots without rows from one node to another, with default limits."""
    async with ring(directory, say, nodes=1, slots=64) as one:
        await asyncio.to_thread(one.cluster.add_node, "b")
        resized = await one.resize()
        events = await one.moves.events([move.move for move in resized.moves])
        return {
            "slots": len(resized.moves),
            "seconds": resized.seconds,
            "pause by step, p50 ms": _by_step(events, 0.5),
        }


async def hottest_slot(directory: Path, say: Say) -> dict[str, Any]:
    """Moves the slot of a post that takes as many likes as the node can write."""
    async with ring(directory, say, nodes=1, slots=4) as one:
        await asyncio.to_thread(one.cluster.add_node, "b")
        foreground = Foreground()
        resized: list[Resized] = []

        async def move() -> None:
            # All slots, so the hot post's is among them.
            await one.topology.set_node("a", state=NodeState.DRAINING)
            resized.append(await one.resize())

        await _while(
            move(),
            lambda: one.load(mix=_FILL, keys=Keys.HOT, seconds=2.0, warmup=0.0, in_flight=32),
            foreground,
        )
        moves = resized[0].moves
        hot = max(moves, key=lambda move: move.rows_copied)
        return {
            "seconds": resized[0].seconds,
            "calls": foreground.calls,
            "failed": foreground.errors,
            "messages": foreground.messages[:5],
            "rows of the hot slot": hot.rows_copied,
            "attempts of the hot slot": hot.attempt,
            "pause of the hot slot ms": (hot.pause_us or 0) / 1000,
            "seconds of the hot slot": _seconds_by_state(await one.moves.events([hot.move])),
            "problem": one.problem(),
        }


def planning() -> dict[str, Any]:
    """Seconds to plan 4096 slots onto 200 nodes, one of which is new."""
    names = [f"node-{number}" for number in range(200)]

    def topology(count: int, owners: Sequence[str | None]) -> Topology:
        nodes = {name: Node(name, "", "", 1, NodeState.ACTIVE, 1) for name in names[:count]}
        return Topology("", 1, 4096, nodes, tuple(owners), tuple(int(owner is not None) for owner in owners))

    first = plan(topology(199, [None] * 4096))
    owners: list[str | None] = [None] * 4096
    for move in first.moves:
        owners[move.slot] = move.target
    began = time.perf_counter()
    wanted = plan(topology(200, owners))
    return {"seconds": time.perf_counter() - began, "moves": wanted.moved, "minimum": wanted.minimum}
