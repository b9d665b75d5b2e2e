"""Lets nodes come and go at random under load, for as long as wanted, and judges every answer: see ``--help``.

The run is made of rounds. In each one callers use posts of their own while random things happen; then the moves settle,
and answers, databases and catalogs must agree. Prints a line for each event and a JSON summary at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import ceil, floor
from pathlib import Path
from typing import Final

from likering.dev.cluster import EmbeddedCluster
from likering.errors import LikeringError, MoveCommitted, PlanStale
from likering.topology.moves import SETTLED, UNCOMMITTED, MoveState, SlotMove
from tests.parts.callers import BULK, Callers
from tests.parts.cluster_logs import complaints
from tests.parts.oracle import judged
from tests.parts.resizing import Resizing, by_state, pauses_ms

NAMES: Final = "abcdefg"
FEWEST: Final = 2
"""Nodes that always stay."""
SLOTS: Final = 64
CALLERS: Final = 20
EVENTS: Final = 6
"""Things that happen in one round."""
CALLS_BETWEEN: Final = (100, 1500)
"""Calls from one event to the next."""
PATIENCE: Final = 180.0
"""Seconds in which what has begun must end."""
_PARTS: Final = ("node", "node", "postgres", "valkey")


@dataclass(slots=True)
class Summary:
    """The figures of a run."""

    seed: str
    minutes: float = 0.0
    rounds: int = 0
    operations: int = 0
    failures: int = 0
    broken: int = 0
    """Batches and commits whose outcome the service did not learn; with nothing killed there should be none."""
    slowest_call_s: float = 0.0
    moves: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    aborted_freezes: int = 0
    pauses_ms: dict[str, float] = field(default_factory=dict)
    kills: int = 0
    contradictions: list[str] = field(default_factory=list)


class Soak:
    """One run on one cluster."""

    def __init__(
        self, cluster: EmbeddedCluster, resizing: Resizing, seed: str, *, rate: float, kill: bool
    ) -> None:
        self._cluster = cluster
        self._resizing = resizing
        self._chance = random.Random(seed)
        self._rate = rate
        self._kill_parts = kill
        self._began = time.monotonic()
        self._draining: set[str] = set()
        self._logs = cluster.directory / "logs"
        self._broken_before = 0
        self.summary = Summary(seed)

    async def run(self, minutes: float) -> None:
        """Rounds until the time is up, or something is wrong."""
        await self._resizing.moves.set_limits(
            slots_at_once=4, rows_per_second=0, grace_seconds=0, pause_budget_ms=200
        )
        try:
            while not self.summary.contradictions and self._elapsed() < minutes * 60:
                await self._round()
            await self._balance()
        finally:
            await self._sum_up()

    def say(self, text: str) -> None:
        """A line with the time of the run."""
        print(f"{self._elapsed():8.1f} s  {text}", flush=True)  # noqa: T201 - a program's output

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _round(self) -> None:
        summary = self.summary
        summary.rounds += 1
        began = datetime.now(UTC)
        callers = Callers(
            self._cluster.address,
            callers=CALLERS,
            seed=f"{summary.seed}/{summary.rounds}",
            posts=60,
            connections=4,
            timeout=10.0,
            rate=self._rate,
            calls=BULK,
        )
        try:
            async with callers:
                for _ in range(EVENTS):
                    await callers.more(self._chance.randrange(*CALLS_BETWEEN), PATIENCE)
                    await self._event()
                if self._kill_parts:
                    await asyncio.to_thread(self._cluster.wait_serving, PATIENCE)
                await self._resizing.moves.set_limits(paused=False)
                await self._resizing.settled(seconds=PATIENCE)
        except (AssertionError, TimeoutError) as error:
            summary.contradictions.append(f"round {summary.rounds} does not end: {error!r}")
        # Connections break without a kill where the machine stands still for longer than their keepalive: then writes
        # are tried again inside the service, too.
        broken = self._broken()
        trouble = self._kill_parts or bool(broken)
        problems = await self._resizing.check(callers, trouble=trouble, seconds=PATIENCE)
        summary.broken += broken
        summary.operations += len(callers.history)
        summary.failures += len(callers.history.failures)
        summary.slowest_call_s = max(summary.slowest_call_s, round(callers.slowest, 3))
        summary.contradictions += problems
        self.say(
            f"round {summary.rounds}: {callers.history}, slowest call {callers.slowest:.2f} s,"
            f" {len(problems)} contradictions"
        )
        if problems:
            self.say(judged(problems, callers.seed))
        if problems or (broken and not self._kill_parts):
            self.say("\n".join(complaints(self._logs, began)))

    def _broken(self) -> int:
        """How many batches and commits have failed since the last time it was asked."""
        failed = sum(
            log.read_text("utf-8", "replace").count(f'"event": "{what} failed"')
            for log in self._logs.glob("*.log")
            for what in ("batch", "commit")
        )
        since, self._broken_before = failed - self._broken_before, failed
        return since

    async def _balance(self) -> None:
        """Whatever was begun and cancelled before: one more resize gives each node the slots that are its share."""
        resize, plan = await self._resizing.begin()
        await self._resizing.settled(resize, PATIENCE)
        owners = (await self._resizing.nodes.get()).owners
        for name, share in plan.after.shares.items():
            if not floor(share) <= owners.count(name) <= ceil(share):
                self.summary.contradictions.append(
                    f"node {name} has {owners.count(name)} slots, its share is {share:.2f}"
                )

    # What happens

    async def _event(self) -> None:
        events: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._grow, 4),
            (self._shrink, 3),
            (self._weigh, 4),
            (self._pause, 1),
            (self._cancel, 3),
        ]
        if self._kill_parts:
            events.append((self._kill, 6))
        ((event, _),) = self._chance.choices(events, [weight for _, weight in events])
        try:
            await event()
        except LikeringError as error:
            # Another resize is under way, or what a kill made unreachable: what was begun before goes on.
            self.say(f"  not now: {error.message}")

    async def _grow(self) -> None:
        nodes = set(self._cluster.nodes)
        choices = sorted((set(NAMES) - nodes) | self._draining)
        if not choices:
            return
        name = self._chance.choice(choices)
        await self._resizing.add(name)
        self._draining.discard(name)
        await self._resize(f"node {name} comes")

    async def _shrink(self) -> None:
        active = sorted(set(self._cluster.nodes) - self._draining)
        if len(active) <= FEWEST:
            return
        name = self._chance.choice(active)
        await self._resizing.drain(name)
        self._draining.add(name)
        await self._resize(f"node {name} goes")

    async def _weigh(self) -> None:
        name = self._chance.choice(sorted(set(self._cluster.nodes) - self._draining))
        weight = self._chance.randrange(1, 6)
        await self._resize(f"node {name} weighs {weight}", {name: weight})

    async def _resize(self, why: str, weights: dict[str, int] | None = None) -> None:
        try:
            resize, plan = await self._resizing.begin(weights)
        except PlanStale:
            await self._resizing.moves.set_limits(paused=False)
            await self._resizing.settled(seconds=PATIENCE)
            resize, plan = await self._resizing.begin(weights)
        self.say(f"  {why}: resize {resize}, {plan.moved} moves")
        if plan.moved > 1.02 * plan.minimum:
            self.summary.contradictions.append(
                f"resize {resize}: {plan.moved} moves, {plan.minimum} would do"
            )

    async def _pause(self) -> None:
        paused = not (await self._resizing.moves.limits()).paused
        await self._resizing.moves.set_limits(paused=paused)
        self.say(f"  moves are {'paused' if paused else 'resumed'}")

    async def _cancel(self) -> None:
        moves = await self._resizing.moves.moves()
        numbers = [move.move for move in moves if move.state in UNCOMMITTED]
        some = self._chance.sample(numbers, min(len(numbers), self._chance.randrange(1, 6)))
        if not some:
            return
        try:
            after = await self._resizing.moves.cancel(some, "soak")
        except MoveCommitted as error:
            self.say(f"  not cancelled: {error.message}")
        else:
            self.say(f"  cancelled {by_state(after)}")

    async def _kill(self) -> None:
        parts = [(name, part) for name in sorted(self._cluster.nodes) for part in _PARTS]
        name, part = self._chance.choice([*parts, ("router", "router"), ("topology", "postgres")])
        if self._cluster.parts[name, part].pid is None:
            return
        self.summary.kills += 1
        self.say(f"  SIGKILL to {part} of {name}")
        await asyncio.to_thread(self._cluster.kill, name, part, signal.SIGKILL)

    async def _sum_up(self) -> None:
        summary = self.summary
        summary.minutes = round(self._elapsed() / 60, 1)
        moves = await self._resizing.moves.moves(ended=True)
        summary.moves = by_state(moves)
        summary.attempts = sum(move.attempt for move in moves)
        summary.pauses_ms = {name: round(value, 1) for name, value in pauses_ms(moves).items()}
        events = await self._resizing.moves.events([move.move for move in moves])
        summary.aborted_freezes = Counter(event.state for event in events)[MoveState.ABORTED]
        stuck: list[SlotMove] = [move for move in moves if move.state not in SETTLED]
        summary.contradictions += [f"{move} is {move.state} at the end" for move in stuck]


async def soak(cluster: EmbeddedCluster, seed: str, minutes: float, *, rate: float, kill: bool) -> Summary:
    """Runs on a cluster that has been started."""
    async with Resizing(cluster) as resizing:
        run = Soak(cluster, resizing, seed, rate=rate, kill=kill)
        await run.run(minutes)
        return run.summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when anything was contradicted, or broke although nothing was killed."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long; the round under way is ended")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="of all that is random")
    parser.add_argument("--rate", type=float, default=1000.0, help="most calls in a second")
    parser.add_argument(
        "--kill", action="store_true", help="also kill parts: then calls may fail, but nothing else"
    )
    parser.add_argument("--keep-logs", type=Path, help="directory to keep the logs of all parts in")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="likering-soak-") as directory:
        data = Path(directory) / "cluster"
        with EmbeddedCluster(data, nodes=3, slots=SLOTS, router_workers=2) as cluster:
            summary = asyncio.run(soak(cluster, given.seed, given.minutes, rate=given.rate, kill=given.kill))
        if given.keep_logs is not None:
            shutil.move(data / "logs", given.keep_logs)
    command = f"scripts/soak --minutes {given.minutes:g} --seed {given.seed} --rate {given.rate:g}"
    broken = summary.broken and not given.kill
    verdict = "contradicted" if summary.contradictions else "broken" if broken else "no contradiction"
    print(f"{verdict}; again with: {command}{' --kill' if given.kill else ''}")  # noqa: T201
    print(json.dumps(asdict(summary), indent=2))  # noqa: T201
    return 1 if summary.contradictions or broken else 0


if __name__ == "__main__":
    sys.exit(main())
