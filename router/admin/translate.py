"""From the stores' values to the messages of likering.admin.v1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from likering.admin.v1 import ring_service_pb2 as api
from likering.ring.plan import balance
from likering.ring.topology import Topology
from likering.topology.moves import MoveEvent, MoveLimits, MoveState, SlotMove
from router.admin.waiting import Waiting, copy_eta


def topology_message(topology: Topology) -> api.Topology:
    """All of a topology."""
    return api.Topology(
        cluster_id=topology.cluster_id,
        version=topology.version,
        nodes=node_messages(topology),
        owners=[owner or "" for owner in topology.owners],
        epochs=topology.epochs,
    )


def node_messages(topology: Topology) -> list[api.Node]:
    """The nodes by name, each with its slots and its quota."""
    spread = balance(topology.owners, topology.weights)
    return [
        api.Node(
            name=name,
            address=node.address,
            weight=node.weight,
            state=api.NodeState.Value(f"NODE_STATE_{node.state.name}"),
            generation=node.generation,
            slots=spread.slots.get(name, 0),
            quota=spread.shares.get(name, 0.0),
            replicas=topology.replicas.get(name, ()),
        )
        for name, node in topology.nodes.items()
    ]


def move_message(move: SlotMove, waits: Waiting | None) -> api.Move:
    """A move; ``waits`` says why it does not go on."""
    message = api.Move(
        move=move.move,
        resize=move.resize,
        slot=move.slot,
        source=move.source,
        target=move.target,
        epoch=move.epoch,
        attempt=move.attempt,
        state=_state(move.state),
        state_since=_timestamp(move.state_since),
        rows_total=move.rows_total,
        rows_copied=move.rows_copied,
        lag=(move.lag_us or 0) / 1e6,
        pause=(move.pause_us or 0) / 1e6,
        eta=copy_eta(move),
        last_error=move.last_error,
        word_time=_timestamp(move.word_at),
    )
    if waits is not None:
        message.waiting.reason = waits.reason
        message.waiting.since.CopyFrom(_timestamp(waits.since))
        message.waiting.command = waits.command
    return message


def limits_message(limits: MoveLimits) -> api.MoveLimits:
    """The limits."""
    return api.MoveLimits(
        paused=limits.paused,
        slots_at_once=limits.slots_at_once,
        rows_per_second=limits.rows_per_second,
        pause_budget_ms=limits.pause_budget_ms,
        grace_seconds=limits.grace_seconds,
        verify_rows_per_second=limits.verify_rows_per_second,
    )


def resize_message(
    resize: int, applied_at: datetime, plan: api.Plan, moves: Sequence[api.Move], events: Iterable[MoveEvent]
) -> api.Resize:
    """A resize with its moves; ``events`` are those of all of them, in order."""
    message = api.Resize(resize=resize, apply_time=_timestamp(applied_at), plan=plan)
    reports = {move.move: message.moves.add(move=move) for move in moves}
    for event in events:
        reports[event.move].events.add(
            time=_timestamp(event.at),
            attempt=event.attempt,
            state=_state(event.state),
            who=event.who,
            detail_json=json.dumps(event.detail) if event.detail else "",
        )
    return message


def _state(state: MoveState) -> api.MoveState.ValueType:
    return api.MoveState.Value(f"MOVE_STATE_{state.name}")


def _timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
