"""Where slots belong: each node holds exactly its weight's quota, filled in the ring's order of preference.

A consistent-hash ring alone leaves the fullest node at 1.08 to 1.31 times the mean. Here the ring only orders the
candidates; how many slots a node holds is its quota, floor or ceiling of its weighted share. Of all ways to round,
the one that moves the fewest slots is taken, so every result is both balanced and as near to what was as it can be,
after any sequence of resizes.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from uhashring import HashRing
from xxhash import xxh3_64_intdigest

POINTS_OF_HEAVIEST = 64
"""Points on the ring of the heaviest node. Quotas make the balance, so this needs no more than to mix the order."""


class PreferenceRing:
    """The order in which each slot prefers the nodes, from a uhashring built for these weights alone.

    ``weights`` is by node name, each an int of at least 1. A ring is never changed: uhashring is not safe to change
    under readers, and building one takes milliseconds.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        check_weights(weights)
        heaviest = max(weights.values(), default=1)
        # Points are bounded by the heaviest node, so that weights in the hundreds do not make a ring of millions.
        points = {
            name: {"vnodes": max(1, POINTS_OF_HEAVIEST * weights[name] // heaviest), "weight": 1}
            for name in sorted(weights)
        }
        ring = HashRing(points, hash_fn=_position)
        points_in_order: list[tuple[int, str]] = ring.get_points()
        self._positions = [position for position, _ in points_in_order]
        self._names = [name for _, name in points_in_order]

    def of(self, slot: int) -> Iterator[str]:
        """All node names, the slot's most preferred first."""
        start = bisect(self._positions, _position(f"slot-{slot}"))
        count = len(self._names)
        seen: set[str] = set()
        for index in range(start, start + count):
            name = self._names[index % count]
            if name not in seen:
                seen.add(name)
                yield name


def check_weights(weights: Mapping[str, int]) -> None:
    """Raise ValueError unless there is a node and each weight is an int of at least 1."""
    if not weights:
        raise ValueError("There is no node to place slots on")
    for name, weight in weights.items():
        # A float weight would make uhashring fail far from here, and quotas inexact.
        if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
            raise ValueError(f"The weight of node {name} must be an integer of at least 1, not {weight!r}")


def quotas(
    weights: Mapping[str, int], slot_count: int, held: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many slots each node is to hold: floor or ceiling of ``slot_count × weight ÷ sum of weights``.

    The slots that the floors leave over go by largest remainder, but first to nodes that hold more than their floor
    already (``held``, by name): that is what makes the number of moves the least possible. Ties go by name.
    """
    check_weights(weights)
    held = held or {}
    total = sum(weights.values())
    shares = {name: divmod(slot_count * weight, total) for name, weight in weights.items()}
    rounded_up = sorted(
        (name for name, (_, remainder) in shares.items() if remainder),
        key=lambda name: (held.get(name, 0) <= shares[name][0], -shares[name][1], name),
    )[: slot_count - sum(floor for floor, _ in shares.values())]
    result = {name: floor for name, (floor, _) in sorted(shares.items())}
    for name in rounded_up:
        result[name] += 1
    return result


def fewest_moves(owners: Sequence[str | None], weights: Mapping[str, int]) -> int:
    """The least number of owned slots that must change owner for every node to hold floor or ceiling of its share.

    Counted from the floors and remainders alone, not from a placement, so that placements can be measured with it.
    """
    check_weights(weights)
    total = sum(weights.values())
    held = Counter(owner for owner in owners if owner is not None)
    leaving = sum(count for name, count in held.items() if name not in weights)
    left_over = len(owners)
    may_keep_one_more = 0
    for name, weight in weights.items():
        floor, remainder = divmod(len(owners) * weight, total)
        left_over -= floor
        leaving += max(0, held[name] - floor)
        may_keep_one_more += remainder > 0 and held[name] > floor
    return leaving - min(left_over, may_keep_one_more)


def place(
    owners: Sequence[str | None], weights: Mapping[str, int], *, move_owned: bool = True
) -> tuple[str | None, ...]:
    """Give every slot an owner among ``weights``, each node exactly its quota, moving only what a quota demands.

    ``owners`` holds each slot's present owner (None: not assigned yet). A slot leaves its owner only if that one is
    not in ``weights`` or holds more than its quota; with ``move_owned`` off no slot leaves its owner, and the
    unassigned ones fill up what the quotas leave. The result depends on nothing but the arguments. Raises ValueError
    for weights that are no positive integers or none at all.
    """
    held = Counter(owner for owner in owners if owner is not None and owner in weights)
    quota = quotas(weights, len(owners), held)
    room = {name: quota[name] - held[name] for name in quota if quota[name] > held[name]}
    surplus = {name: held[name] - quota[name] for name in quota if quota[name] < held[name]}
    ring = PreferenceRing(weights)

    result = list(owners)
    candidates = [
        (slot, owner, ring.of(slot))
        for slot, owner in enumerate(owners)
        if owner is None or (move_owned and (owner in surplus or owner not in weights))
    ]
    # Round by round: all first choices, then all second ones, and so on. A slot whose choice is full stays for the
    # next round; it cannot run out of choices, since there is at least as much room as there are slots to place.
    while candidates:
        undecided = []
        for slot, owner, preferences in candidates:
            if owner is not None and surplus.get(owner) == 0:
                continue  # its owner has given away enough by now
            choice = next(preferences)
            if room.get(choice):
                result[slot] = choice
                room[choice] -= 1
                if owner is not None and owner in surplus:
                    surplus[owner] -= 1
            else:
                undecided.append((slot, owner, preferences))
        candidates = undecided
    return tuple(result)


def _position(key: str) -> int:
    return xxh3_64_intdigest(key.encode())
