"""Where a call was while its caller waited: noted on the way, and put together for the line that a slow call leaves.

A router's call visits nodes, perhaps several at once and perhaps again; a node says with its answer where it spent the
time. Noting is an append; the sums are made only for calls that were slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple


class Visit(NamedTuple):
    """One batch, or one question, to a node. Times are of ``time.monotonic``."""

    node: str
    sent: float
    answered: float
    spent: Mapping[str, float] | None
    """Seconds by part, as the node tells them; None when it gave no answer."""


class Trail:
    """Of one call."""

    __slots__ = ("parts", "span", "started", "visits")

    def __init__(self, started: float) -> None:
        self.started = started
        """On the clock of ``time.monotonic``."""
        self.visits: list[tuple[float, Visit]] = []
        """Since when each of them was waited for, and the visit."""
        self.parts: Mapping[str, float] | None = None
        """Seconds by part, as the servicer itself knows them: a node's."""
        self.span: Any = None
        """The call's span, while traces are on."""

    def __repr__(self) -> str:
        return f"<Trail of {len(self.visits)} visits>"

    def told(self, ended: float) -> dict[str, Any]:
        """For the line of a slow call: seconds by part, and which nodes were waited for."""
        if self.parts is not None:
            spent = dict(self.parts)
            spent["other"] = ended - self.started - sum(spent.values())
        elif self.visits:
            spent, nodes = where_time_went(self.started, ended, self.visits)
            return {"spent": _rounded(spent), "nodes": nodes}
        else:
            return {}
        return {"spent": _rounded(spent)}


trail_of_call: ContextVar[Trail | None] = ContextVar("trail", default=None)
"""The trail of the call that the current task serves."""


def where_time_went(
    started: float, ended: float, visits: Sequence[tuple[float, Visit]]
) -> tuple[dict[str, float], list[str]]:
    """Seconds by part, which make up the whole, and the nodes in the order of the visits.

    Of visits at the same time the one counts that was waited for last: walking back from the end, the latest answer,
    then the latest answer before that one's question was put, and so on. What lies between two of them is a wait before
    another try; what is left is the router's own time.
    """
    spent: dict[str, float] = {"router_queue": 0.0, "wire": 0.0}
    nodes: list[str] = []
    cursor = ended
    for queued, visit in sorted(visits, key=lambda noted: noted[1].answered, reverse=True):
        if visit.answered > cursor:
            continue
        spent["router_queue"] += visit.sent - queued
        away = visit.answered - visit.sent
        if visit.spent is None:
            spent["unanswered"] = spent.get("unanswered", 0.0) + away
        else:
            spent["wire"] += away - sum(visit.spent.values())
            for part, seconds in visit.spent.items():
                spent[part] = spent.get(part, 0.0) + seconds
        if nodes:
            spent["between_tries"] = spent.get("between_tries", 0.0) + cursor - visit.answered
        nodes.insert(0, visit.node)
        cursor = queued
    spent["router"] = ended - started - sum(spent.values())
    return spent, nodes


def _rounded(spent: Mapping[str, float]) -> dict[str, float]:
    return {part: round(seconds, 4) for part, seconds in spent.items()}
