"""A ring at any size: what resizes move, how even slots and load lie afterwards, and how long the moves take.

Slots are placed by the very functions that plan real resizes (``likering.ring``). Posts, their popularity and viral
ones are drawn from a seed; the moves of a resize are carried out one by one, in simulated time, within the limits of
real ones.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from likering.ring.hashing import MAX_SLOT_COUNT, check_slot_count, slot_of
from likering.ring.plan import COPIED_PER_SECOND, SECONDS_PER_SLOT, Move, Plan, plan
from likering.ring.topology import Node, NodeState, Topology

MOST_NODES: Final = 2000
_MOST_EXPONENT: Final = 10.0
"""Then the first of all posts has all but a thousandth of the likes."""
_MOST_ROWS: Final = 10**18


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to a ring: it doubles from ``first_nodes`` up to ``nodes``, then grows by one, then loses some.

    ``posts`` are liked as Zipf's law has it, with this exponent. In each step so many fresh ones are ``viral``, and
    take ``viral_share`` of all likes each. ``rows`` are spread over the slots as the likes are. ``slots_at_once`` and
    ``rows_per_second`` are the limits of ``likering ring limits``.
    """

    slots: int = MAX_SLOT_COUNT
    first_nodes: int = 10
    nodes: int = MOST_NODES
    joins: int = 3
    losses: int = 3
    posts: int = 1_000_000
    exponent: float = 0.8
    viral: int = 3
    viral_share: float = 0.02
    rows: int = 1_000_000_000
    slots_at_once: int = 1
    rows_per_second: int = 20_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One resize, and the ring after it. Ratios are of the fullest or hottest node to the mean one."""

    event: str
    nodes: int
    moved: int
    fewest: int
    """Slots that any balanced placement would have had to move."""
    rows_moved: int
    seconds: float
    """Until the last slot is served at its new place."""
    slots_max_over_mean: float
    rows_max_over_mean: float
    load_max_over_mean: float
    viral_max_over_mean: float
    """Of the load while posts are viral."""
    hottest: str
    """The node with the most load then."""


class SimulatedRing:
    """A slot map that is resized as a real one is, by plans."""

    def __init__(self, slots: int, names: Sequence[str]) -> None:
        """All nodes have the same weight."""
        self.topology = Topology(
            cluster_id="simulated",
            version=1,
            slot_count=slots,
            nodes=_nodes(names),
            owners=(None,) * slots,
            epochs=(0,) * slots,
        )
        self.resize(names)

    def __repr__(self) -> str:
        return f"<SimulatedRing {self.topology!r}>"

    def resize(self, names: Sequence[str]) -> Plan:
        """The plan that brings all slots onto these nodes; it is carried out at once."""
        made = plan(self.topology, dict.fromkeys(names, 1))
        owners, epochs = list(self.topology.owners), list(self.topology.epochs)
        for move in made.moves:
            owners[move.slot] = move.target
            epochs[move.slot] = move.epoch + 1
        self.topology = replace(
            self.topology,
            version=self.topology.version + 1,
            nodes=_nodes(names),
            owners=tuple(owners),
            epochs=tuple(epochs),
        )
        return made


def simulate(scenario: Scenario) -> Iterator[Step]:
    """One step after the other. Raises ValueError for a scenario that makes no sense."""
    _check(scenario)
    chance = random.Random(scenario.seed)
    calm = _calm_load(scenario)
    rows = [round(scenario.rows * share) for share in calm]
    first = [_name(number) for number in range(scenario.first_nodes)]
    ring = SimulatedRing(scenario.slots, first)
    yield _step("start", first, ring, None, 0.0, calm, rows, _viral_load(scenario, calm, 0))
    for number, (event, names) in enumerate(_resizes(scenario, first, chance), start=1):
        made = ring.resize(names)
        seconds = rebalance_seconds(made.moves, rows, scenario.slots_at_once, scenario.rows_per_second)
        yield _step(event, names, ring, made, seconds, calm, rows, _viral_load(scenario, calm, number))


def rebalance_seconds(
    moves: Sequence[Move], rows: Sequence[int], slots_at_once: int, rows_per_second: int
) -> float:
    """How long the moves take when each node takes part in so many at a time and copies so many rows a second.

    Each target begins its moves in their order, passing over those whose source is busy, as real ones do.
    """
    rate = min(rows_per_second or COPIED_PER_SECOND, COPIED_PER_SECOND) / slots_at_once
    waiting: defaultdict[str, deque[Move]] = defaultdict(deque)
    wanted_of: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for move in moves:
        if move.source is not None:
            waiting[move.target].append(move)
            wanted_of[move.source][move.target] = None
    busy: Counter[str] = Counter()
    under_way: list[tuple[float, int, str, str]] = []
    now = 0.0

    def begin(target: str) -> None:
        queue = waiting[target]
        passed_over: list[Move] = []
        while queue and busy[target] < slots_at_once:
            move = queue.popleft()
            assert move.source is not None
            if busy[move.source] >= slots_at_once:
                passed_over.append(move)
                continue
            busy.update((move.source, target))
            ends = now + SECONDS_PER_SLOT + rows[move.slot] / rate
            heapq.heappush(under_way, (ends, move.slot, move.source, target))
        queue.extendleft(reversed(passed_over))

    for target in list(waiting):
        begin(target)
    while under_way:
        now, _, source, target = heapq.heappop(under_way)
        busy.subtract((source, target))
        # Whoever waits for one of the two may begin now; a node may be both.
        for candidate in (target, source, *wanted_of[source], *wanted_of[target]):
            if waiting.get(candidate):
                begin(candidate)
    return now


def _resizes(scenario: Scenario, names: list[str], chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    names = list(names)
    while len(names) < scenario.nodes:
        names = [_name(number) for number in range(min(2 * len(names), scenario.nodes))]
        yield f"grow to {len(names)}", names
    for _ in range(scenario.joins):
        names = [*names, _name(len(names))]
        yield "one joins", names
    for _ in range(scenario.losses):
        lost = chance.choice(names)
        names = [name for name in names if name != lost]
        yield f"{lost} lost", names


def _step(
    event: str,
    names: Sequence[str],
    ring: SimulatedRing,
    made: Plan | None,
    seconds: float,
    calm: Sequence[float],
    rows: Sequence[int],
    viral: Sequence[float],
) -> Step:
    owners = ring.topology.owners
    hot = _by_node(owners, viral)
    return Step(
        event=event,
        nodes=len(names),
        moved=made.moved if made else 0,
        fewest=made.minimum if made else 0,
        rows_moved=sum(rows[move.slot] for move in made.moves) if made else 0,
        seconds=seconds,
        slots_max_over_mean=_max_over_mean(_by_node(owners, [1] * len(owners)), len(names)),
        rows_max_over_mean=_max_over_mean(_by_node(owners, rows), len(names)),
        load_max_over_mean=_max_over_mean(_by_node(owners, calm), len(names)),
        viral_max_over_mean=_max_over_mean(hot, len(names)),
        hottest=max(hot, key=lambda name: (hot[name], name)),
    )


def _by_node(owners: Sequence[str | None], values: Sequence[float]) -> Mapping[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for owner, value in zip(owners, values, strict=True):
        if owner is not None:
            sums[owner] += value
    return sums


def _max_over_mean(values: Mapping[str, float], nodes: int) -> float:
    total = sum(values.values())
    return max(values.values()) * nodes / total if total else 0.0


def _calm_load(scenario: Scenario) -> list[float]:
    """The share of all likes that each slot gets while nothing is viral."""
    load = [0.0] * scenario.slots
    for rank in range(1, scenario.posts + 1):
        load[slot_of(f"post-{scenario.seed}-{rank}", scenario.slots)] += rank**-scenario.exponent
    total = sum(load)
    return [share / total for share in load]


def _viral_load(scenario: Scenario, calm: Sequence[float], step: int) -> list[float]:
    left = 1 - scenario.viral * scenario.viral_share
    load = [share * left for share in calm]
    for number in range(scenario.viral):
        load[slot_of(f"viral-{scenario.seed}-{step}-{number}", scenario.slots)] += scenario.viral_share
    return load


def _name(number: int) -> str:
    return f"n{number:04}"


def _nodes(names: Sequence[str]) -> dict[str, Node]:
    return {name: Node(name, name, "", 1, NodeState.ACTIVE, 1) for name in names}


def _check(scenario: Scenario) -> None:
    check_slot_count(scenario.slots)
    if not 1 <= scenario.first_nodes <= scenario.nodes <= scenario.slots:
        raise ValueError("there are at least as many nodes in the end as at first, and no more than slots")
    if scenario.nodes + scenario.joins > scenario.slots:
        raise ValueError("there are no more nodes than slots, those that join included")
    if not 0 <= scenario.losses < scenario.nodes + scenario.joins:
        raise ValueError("not all nodes can be lost")
    if not 0 <= scenario.viral * scenario.viral_share < 1:
        raise ValueError("viral posts cannot take all likes")
    if scenario.posts < 1 or scenario.slots_at_once < 1:
        raise ValueError("there is at least one post, and one move at a time")
    if not 0 <= scenario.exponent <= _MOST_EXPONENT:
        raise ValueError(f"the exponent of posts' popularity is between 0 and {_MOST_EXPONENT:g}")
    if not 0 <= scenario.rows <= _MOST_ROWS:
        raise ValueError(f"the rows stored are between 0 and {_MOST_ROWS:.0e}")
