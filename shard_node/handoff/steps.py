"""The steps of a handoff, told one by one: to the log, and to tests that end a process at one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from likering.topology.move_names import Attempt
from likering.topology.moves import SlotMove

log = structlog.get_logger(__name__)

Step = Callable[[str, SlotMove | Attempt], None]


def logged(step: str, move: SlotMove | Attempt, **more: Any) -> None:
    """The step has been done. Who is asked to freeze a slot knows the attempt only."""
    if isinstance(move, SlotMove):
        more = {"source": move.source, "target": move.target, **more}
    # Not above debug: lines are written while the slot's writes wait, and the move's events tell the same.
    log.debug("handoff", step=step, slot=move.slot, move=move.move, attempt=move.attempt, **more)


reached: Step = logged
"""Called as ``steps.reached(step, move)``, so that a test may put something in its place."""
