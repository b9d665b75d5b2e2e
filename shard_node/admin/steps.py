"""The steps of repairs and purges, told one by one: to the log, and to tests that end a process at one of them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

Step = Callable[[str, int], None]


def logged(step: str, slot: int) -> None:
    """The step has been done, in that slot."""
    log.debug("maintenance", step=step, slot=slot)


reached: Step = logged
"""Called as ``steps.reached(step, slot)``, so that a test may put something in its place."""
