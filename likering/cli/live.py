"""What ``likering ring watch`` shows: the nodes and the moves at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.figures import count, duration
from likering.cli.messages import short_enum
from likering.cli.report import DONE, GIVEN_UP, state_name

_HANDOFF_SECONDS = 0.01
"""What a pause takes besides the lag: the freeze's commit and the compare-and-sets."""
_PAUSING = frozenset((api.MOVE_STATE_CATCHING_UP, api.MOVE_STATE_FREEZING, api.MOVE_STATE_ABORTED))
_NODE_STATE = api.Node.DESCRIPTOR.fields_by_name["state"]


def frame(picture: api.WatchMovesResponse, *, rows: int | None = None) -> RenderableType:
    """Nodes, limits and moves. ``rows``: show no more moves than that."""
    under_way = [move for move in picture.moves if move.state not in DONE | GIVEN_UP]
    # What has begun before what has not: those are the ones that move.
    under_way.sort(key=lambda move: (move.state == api.MOVE_STATE_PLANNED, move.move))
    shown = under_way if rows is None else under_way[: max(1, rows)]
    parts: list[RenderableType] = [_nodes(picture), limits_line(picture.limits)]
    if shown:
        parts.append(_moves(shown))
    if len(shown) < len(under_way):
        parts.append(f"… and {len(under_way) - len(shown)} more")
    parts.append(moves_line(picture.moves))
    return Group(*parts)


def limits_line(limits: api.MoveLimits) -> str:
    """The limits in one line."""
    rate = f"{limits.rows_per_second:,} rows/s" if limits.rows_per_second else "rows/s without limit"
    proved = (
        f"proved at {limits.verify_rows_per_second:,} rows/s"
        if limits.verify_rows_per_second
        else "not proved"
    )
    slots = "1 slot" if limits.slots_at_once == 1 else f"{limits.slots_at_once} slots"
    return (
        f"{'[bold]moves are paused[/bold]; ' if limits.paused else ''}"
        f"{slots} at once and {rate} per node, pause budget {limits.pause_budget_ms} ms,"
        f" copies kept for {duration(limits.grace_seconds)}; counts {proved}"
    )


def moves_line(moves: Iterable[api.Move]) -> str:
    """How many moves are in which state."""
    states = Counter(move.state for move in moves)
    if not states:
        return "no moves under way"
    return "moves: " + ", ".join(f"{number} {state_name(state)}" for state, number in sorted(states.items()))


def predicted_pause(move: api.Move) -> str:
    """The pause: as it was, or as the lag of the last changes foretells it."""
    if move.pause:
        return duration(move.pause)
    if move.lag and move.state in _PAUSING:
        return f"≈ {duration(move.lag + _HANDOFF_SECONDS)}"
    return ""


def _nodes(picture: api.WatchMovesResponse) -> Table:
    loads = {load.name: load for load in picture.loads}
    headings = ("weight", "slots", "quota", "rows", "writes/s", "write p99")
    table = Table("node", "state", *(Column(heading, justify="right") for heading in headings))
    for node in picture.nodes:
        load = loads.get(node.name)
        if load is None:
            figures = ("", "", "")
        elif not load.reachable:
            figures = ("no answer", "", "")
        else:
            figures = (count(load.rows), f"{load.writes_per_second:,.0f}", duration(load.write_p99))
        table.add_row(
            node.name,
            short_enum(_NODE_STATE, node.state),
            str(node.weight),
            str(node.slots),
            f"{node.quota:.2f}",
            *figures,
        )
    return table


def _moves(moves: list[api.Move]) -> Table:
    numbers = ("move", "slot")
    figures = ("rows", "lag", "pause", "copied in")
    table = Table(
        *(Column(heading, justify="right") for heading in numbers),
        "from",
        "to",
        "state",
        *(Column(heading, justify="right") for heading in figures),
        "waits for",
    )
    for move in moves:
        attempt = f" (attempt {move.attempt})" if move.attempt > 1 else ""
        table.add_row(
            str(move.move),
            str(move.slot),
            move.source,
            move.target,
            f"{state_name(move.state)}{attempt}",
            f"{move.rows_copied:,} of {move.rows_total:,}" if move.rows_total else "",
            duration(move.lag) if move.lag else "",
            predicted_pause(move),
            duration(move.eta) if move.eta > 0 else "",
            escape(waits_for(move)),
        )
    return table


def waits_for(move: api.Move) -> str:
    """Why a move waits and what helps; or else the last thing that went wrong."""
    if not move.HasField("waiting"):
        return f"last error: {move.last_error}" if move.last_error else ""
    command = f" → {move.waiting.command}" if move.waiting.command else ""
    return f"{move.waiting.reason}{command}"
