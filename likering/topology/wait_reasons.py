"""Why moves wait, in words: what nodes note with a move, and which command helps against each.

Whoever notes a reason makes it here, so its form tells what kind it is, whatever the nodes in it are called.
"""

from __future__ import annotations

import re
from typing import Final

PAUSED: Final = "moves are paused"
RESUME: Final = "likering ring resume"
START: Final = "start that node"
_OVER_BUDGET: Final = "a freeze now would take about {} ms, above the budget of {} ms"


def busy(node: str) -> str:
    """The limit of moves at once."""
    return f"node {node} takes part in as many moves as it may at once"


def silent(node: str) -> str:
    """A source that cannot be asked."""
    return f"node {node} does not answer"


def over_budget(pause_ms: float, budget_ms: int) -> str:
    """A freeze would last too long."""
    return _OVER_BUDGET.format(round(pause_ms), budget_ms)


def behind(seconds: float) -> str:
    """So far behind that no freeze can be thought of, nor would a larger budget help."""
    return f"changes take more than {seconds:.0f} s to arrive"


def transactions(node: str, processes: str) -> str:
    """The replication slot cannot be made before these have ended."""
    return f"a transaction on node {node}'s Postgres has to end first: {processes}"


def held_twice(node: str, target: str) -> str:
    """A source that has a slot again after it has been taken."""
    return (
        f"node {node}'s database holds the slot too, which node {target} serves:"
        " it is older than the move, or was changed by hand"
    )


_COMMANDS: Final = tuple(
    (re.compile(form), command)
    for form, command in (
        (PAUSED, RESUME),
        (busy(r"\S+"), "likering ring limits --slots-at-once N"),
        (silent(r"\S+"), START),
        (_OVER_BUDGET.format(r"\d+", r"\d+"), "likering ring limits --pause-budget MILLISECONDS"),
        (transactions(r"\S+", ".*"), "end it there: SELECT pg_terminate_backend(PROCESS)"),
        (held_twice(r"\S+", r"\S+"), "likering ring check"),
    )
)


def remedy(reason: str) -> str:
    """The command that helps; empty when only time does, or what the reason itself says."""
    return next((command for form, command in _COMMANDS if form.fullmatch(reason)), "")
