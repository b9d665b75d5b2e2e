"""What became of a resize: per slot its phases, attempts, rows, pause and lag; over all the pauses and the speed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.messages import plain, short_enum

DONE = frozenset((api.MOVE_STATE_VERIFIED, api.MOVE_STATE_RETIRED))
GIVEN_UP = frozenset((api.MOVE_STATE_CANCELLED, api.MOVE_STATE_REVERTED))
_STATE = api.Move.DESCRIPTOR.fields_by_name["state"]


def report_of(resize: api.Resize) -> dict[str, Any]:
    """Plain values for JSON. Times of day are RFC 3339, durations are seconds."""
    slots = [_slot(report) for report in resize.moves]
    moved = [report for report in resize.moves if report.move.state in DONE]
    seconds = _seconds(resize)
    rows = sum(report.move.rows_copied for report in resize.moves)
    pauses = [pause for slot in slots for pause in (slot["pause"], *slot["aborted_freezes"]) if pause]
    return {
        "resize": resize.resize,
        "apply_time": resize.apply_time.ToJsonString(),
        "slots_planned": len(resize.moves),
        "slots_moved": len(moved),
        "slots_given_up": sum(report.move.state in GIVEN_UP for report in resize.moves),
        "slots_never_compared": sum(slot["never_compared"] for slot in slots),
        "minimum": resize.plan.minimum,
        "seconds": seconds,
        "rows": rows,
        "rows_per_second": rows / seconds if seconds else None,
        "pauses": {
            "count": len(pauses),
            "aborted": sum(len(slot["aborted_freezes"]) for slot in slots),
            "p50": percentile(pauses, 0.50),
            "p99": percentile(pauses, 0.99),
            "max": max(pauses, default=None),
        },
        "slots": slots,
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank: one of the values, or None when there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def state_name(state: int) -> str:
    """``catching_up`` for MOVE_STATE_CATCHING_UP."""
    return short_enum(_STATE, state)


def _seconds(resize: api.Resize) -> float:
    """From the plan's application to the last slot that was verified or given up; so far, while some are not."""
    ends = [
        event.time
        for report in resize.moves
        for event in report.events
        if event.state != api.MOVE_STATE_RETIRED
    ]
    return max((_between(resize.apply_time, end) for end in ends), default=0.0)


def _slot(report: api.MoveReport) -> dict[str, Any]:
    move, events = report.move, list(report.events)
    phases = []
    aborted = []
    for index, event in enumerate(events):
        following = events[index + 1] if index + 1 < len(events) else None
        lasted = _between(event.time, following.time) if following is not None else None
        phases.append(
            {
                "state": state_name(event.state),
                "attempt": event.attempt,
                "time": event.time.ToJsonString(),
                "seconds": lasted,
                "who": event.who,
                "detail": json.loads(event.detail_json) if event.detail_json else {},
            }
        )
        if (
            event.state == api.MOVE_STATE_FREEZING
            and following is not None
            and following.state in (api.MOVE_STATE_ABORTED, api.MOVE_STATE_CANCELLED)
        ):
            aborted.append(lasted)
    return {
        "slot": move.slot,
        "move": move.move,
        "source": move.source,
        "target": move.target,
        "state": state_name(move.state),
        "attempts": move.attempt,
        "rows": move.rows_copied,
        "pause": move.pause or None,
        "aborted_freezes": aborted,
        "lag": move.lag or None,
        # A node was lost before its copy could be looked at.
        "never_compared": move.state == api.MOVE_STATE_RETIRED
        and not any(event.state == api.MOVE_STATE_VERIFIED for event in events),
        "last_error": move.last_error,
        "waiting": plain(move.waiting) if move.HasField("waiting") else None,
        "phases": phases,
    }


def _between(start: Timestamp, end: Timestamp) -> float:
    return (end.ToNanoseconds() - start.ToNanoseconds()) / 1e9
