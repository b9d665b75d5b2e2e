"""Plans of resizes: from a topology to the message that an operator reads and applies, and what it will take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from google.protobuf import json_format

from likering.admin.v1 import ring_service_pb2 as api
from likering.errors import InvalidArgument, NotPossible, PlanStale, WrongCluster
from likering.ring import plan as ring
from likering.ring.plan import COPIED_PER_SECOND, SECONDS_PER_SLOT
from likering.ring.topology import NodeState, Topology
from likering.topology.moves import MoveLimits
from likering.topology.store import NodeUnknown, check_weight

UNKNOWN: Final = -1
"""Stands for rows, bytes and seconds that are not known."""
USUAL_PAUSE: Final = 0.015
"""Seconds; for a cluster in which no slot was moved yet."""


@dataclass(frozen=True, slots=True)
class SlotSize:
    """What a slot's tables hold."""

    rows: int
    bytes: int


def changed_weights(topology: Topology, wanted: Mapping[str, int]) -> dict[str, int]:
    """Those of the wanted weights that differ from the nodes' own. Raises NodeUnknown and InvalidArgument."""
    for name, weight in wanted.items():
        if name not in topology.nodes:
            raise NodeUnknown.of(name, topology.nodes)
        try:
            check_weight(weight)
        except ValueError as error:
            raise InvalidArgument(f"{error} (node {name})") from error
    return {name: weight for name, weight in wanted.items() if weight != topology.nodes[name].weight}


def draft(topology: Topology, weights: Mapping[str, int]) -> ring.Plan:
    """The moves onto the active nodes, were these their weights. Raises NotPossible."""
    if topology.unowned:
        raise NotPossible(
            f"{len(topology.unowned)} slots have no owner yet: give them one first, with: likering cluster assign"
        )
    active = {
        name: weights.get(name, node.weight)
        for name, node in topology.nodes.items()
        if node.state is NodeState.ACTIVE
    }
    if not active:
        raise NotPossible(
            "No node is active, so slots have nowhere to go: add one, or end a drain with:"
            " likering node undrain NAME"
        )
    return ring.plan(topology, active)


def plan_message(
    topology: Topology,
    drafted: ring.Plan,
    weights: Mapping[str, int],
    sizes: Mapping[int, SlotSize],
    limits: MoveLimits,
    pauses: Sequence[int],
) -> api.Plan:
    """The plan as operators see it.

    ``weights``: those that it changes; ``sizes`` by slot, as far as known; ``pauses``: of recent moves, in µs.
    """
    message = api.Plan(
        cluster_id=topology.cluster_id,
        version=topology.version,
        minimum=drafted.minimum,
        before=_shares(drafted.before),
        after=_shares(drafted.after),
        expected_pause=median(pauses) / 1e6 if pauses else USUAL_PAUSE,
        weights=weights,
    )
    for move in drafted.moves:
        size = sizes.get(move.slot)
        message.moves.add(
            slot=move.slot,
            source=move.source or "",
            target=move.target,
            epoch=move.epoch,
            rows=size.rows if size else UNKNOWN,
            bytes=size.bytes if size else UNKNOWN,
        )
    message.expected_seconds = expected_seconds(message.moves, limits)
    return message


def expected_seconds(moves: Iterable[api.PlannedMove], limits: MoveLimits) -> float:
    """How long the moves take, as the busiest node will have it; UNKNOWN when the rows of one are.

    A node copies ``rows_per_second`` as the target of all its moves together. As a source it feeds at most
    ``slots_at_once`` targets at a time, and so many moves share the time that each takes besides.
    """
    rate = min(limits.rows_per_second or COPIED_PER_SECOND, COPIED_PER_SECOND)
    rows_in: defaultdict[str, int] = defaultdict(int)
    rows_out: defaultdict[str, int] = defaultdict(int)
    targets: defaultdict[str, set[str]] = defaultdict(set)
    taking_part: defaultdict[str, int] = defaultdict(int)
    for move in moves:
        if move.rows < 0:
            return UNKNOWN
        rows_in[move.target] += move.rows
        rows_out[move.source] += move.rows
        targets[move.source].add(move.target)
        taking_part[move.source] += 1
        taking_part[move.target] += 1
    return max(
        (
            SECONDS_PER_SLOT * count / limits.slots_at_once
            + max(
                rows_in[node] / rate,
                rows_out[node] / (rate * min(limits.slots_at_once, max(1, len(targets[node])))),
            )
            for node, count in taking_part.items()
        ),
        default=0.0,
    )


def check_current(plan: api.Plan, topology: Topology) -> None:
    """Raises WrongCluster or PlanStale unless the plan is for this very topology."""
    if plan.cluster_id != topology.cluster_id:
        raise WrongCluster(
            f"The plan is for cluster {plan.cluster_id or '(none)'}, but this is cluster {topology.cluster_id}"
        )
    if plan.version != topology.version:
        raise PlanStale(
            f"The plan is for version {plan.version} of the topology, which is at {topology.version} by now:"
            " make another plan"
        )


def check_made(plan: api.Plan) -> None:
    """Raises InvalidArgument for a plan that cannot have been made here: the store would choke on it."""
    slots = [move.slot for move in plan.moves]
    if len(set(slots)) < len(slots):
        raise InvalidArgument("The plan moves a slot twice")
    if any(move.source == move.target for move in plan.moves):
        raise InvalidArgument("The plan moves a slot to the node that it is on")
    shares = (share.node for balance in (plan.before, plan.after) for share in balance)
    nodes = (name for move in plan.moves for name in (move.source, move.target))
    if any("\0" in name for name in (*shares, *nodes)):
        raise InvalidArgument("The plan has a node with a NUL in its name")


def planned_moves(plan: api.Plan) -> list[ring.Move]:
    """The moves of a plan, for the store."""
    return [
        ring.Move(slot=move.slot, source=move.source, target=move.target, epoch=move.epoch)
        for move in plan.moves
    ]


def to_json(plan: api.Plan) -> dict[str, Any]:
    """For the store."""
    return json_format.MessageToDict(plan, preserving_proto_field_name=True)


def from_json(value: Mapping[str, Any]) -> api.Plan:
    """What ``to_json`` was given, also by another version of this program."""
    return json_format.ParseDict(dict(value), api.Plan(), ignore_unknown_fields=True)


def _shares(balance: ring.Balance) -> list[api.Share]:
    return [
        api.Share(node=name, slots=slots, quota=balance.shares[name]) for name, slots in balance.slots.items()
    ]
