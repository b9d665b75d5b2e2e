"""What changes between one slot map and the next: the moves, how few there could be, and the balance on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from likering.ring.placement import fewest_moves, place
from likering.ring.topology import Topology

SECONDS_PER_SLOT: Final = 0.5
"""What a move takes besides its rows: tables, replication slot, subscription, freeze, and a rest as long."""
COPIED_PER_SECOND: Final = 100_000
"""Rows that a node copies a second when nothing limits it. 108,000 to 146,000 were measured."""


@dataclass(frozen=True, slots=True)
class Move:
    """One slot changing owner.

    ``source`` is None for a first assignment. ``epoch`` is the slot's epoch now; the move makes it ``epoch + 1``.
    """

    slot: int
    source: str | None
    target: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Balance:
    """How slots are spread: by node name, how many each holds, and the exact share its weight would give it."""

    slots: Mapping[str, int]
    shares: Mapping[str, float]

    @property
    def max_over_share(self) -> float:
        """The fullest node's slots ÷ its share: 1.0 is even. Infinite if a node holds slots but has no share."""
        return max(
            (
                held / self.shares[name] if self.shares.get(name) else float("inf")
                for name, held in self.slots.items()
                if held
            ),
            default=0.0,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """From the topology at ``version`` to a balanced one: moves in slot order.

    ``minimum`` is the least number of owned slots that any placement at floor or ceiling of the shares would move.
    """

    version: int
    moves: tuple[Move, ...]
    minimum: int
    before: Balance
    after: Balance

    @property
    def moved(self) -> int:
        """How many slots leave an owner; first assignments not counted."""
        return sum(move.source is not None for move in self.moves)


def plan(topology: Topology, weights: Mapping[str, int] | None = None) -> Plan:
    """The plan that brings every slot onto ``weights`` (node name → weight; default: the active nodes).

    Every node then holds exactly floor or ceiling of its share. For the way to another topology's set of nodes give
    ``after.weights``. Raises ValueError for weights that are no positive integers or none at all.
    """
    if weights is None:
        weights = topology.weights
    owners = place(topology.owners, weights)
    return Plan(
        version=topology.version,
        moves=moves_between(topology, owners),
        minimum=fewest_moves(topology.owners, weights),
        before=balance(topology.owners, weights),
        after=balance(owners, weights),
    )


def moves_between(topology: Topology, owners: Sequence[str | None]) -> tuple[Move, ...]:
    """The moves that lead from a topology's slot map to ``owners``, in slot order."""
    return tuple(
        Move(slot=slot, source=source, target=target, epoch=topology.epochs[slot])
        for slot, (source, target) in enumerate(zip(topology.owners, owners, strict=True))
        if target is not None and source != target
    )


def balance(owners: Sequence[str | None], weights: Mapping[str, int]) -> Balance:
    """How ``owners`` spreads the slots over the nodes of ``weights``, and over others that still hold some."""
    total = sum(weights.values())
    held = Counter(owner for owner in owners if owner is not None)
    names = sorted(held.keys() | weights.keys())
    return Balance(
        slots={name: held[name] for name in names},
        shares={name: len(owners) * weights.get(name, 0) / total if total else 0.0 for name in names},
    )
