"""The steps of a handoff, told one by one: to the log, and to tests that end a process at one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from likering.topology.moves import SlotMove

log = structlog.get_logger(__name__)

Step = Callable[[str, SlotMove], None]


def logged(step: str, move: SlotMove, **more: Any) -> None:
    """The step has been done."""
    log.info(
        "handoff",
        step=step,
        slot=move.slot,
        move=move.move,
        attempt=move.attempt,
        source=move.source,
        target=move.target,
        **more,
    )


reached: Step = logged
"""Called as ``steps.reached(step, move)``, so that a test may put something in its place."""
