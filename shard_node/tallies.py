"""What the parts of a node count for its metrics: a few additions per batch, whoever may look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from likering.serving.distribution import OPERATIONS, Distribution
from shard_node.commit import Batch

PAUSES: Final = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Bounds for pauses, in seconds."""


class WriterTally:
    """Group commits. Lives on the writer's event loop."""

    def __init__(self) -> None:
        self.operations = 0
        """Committed."""
        self.refused: Counter[str] = Counter()
        """Operations that were not executed, by why: of a batch, or all that waited."""
        self.failed: Counter[str] = Counter()
        """Transactions that failed, by the name of the error."""
        self.batch_operations = Distribution(OPERATIONS)
        self.queue_seconds = Distribution()
        """Of each unit, from its arrival to the begin of its transaction."""
        self.commit_seconds = Distribution()
        """Of each transaction."""
        self.slots: Counter[int] = Counter()
        """Operations, by slot."""

    def __repr__(self) -> str:
        return f"<WriterTally {self.operations} operations committed>"

    def committed(self, batch: Batch) -> None:
        """A batch is committed, but for what is refused of it."""
        self.operations += len(batch) - len(batch.refused)
        slots: Iterable[int] = batch.slots
        if batch.refused:
            slots = [slot for position, slot in enumerate(slots) if position not in batch.refused]
        self.slots.update(slots)
        self.batch_operations.add(len(batch))
        self.commit_seconds.add(batch.ended - batch.began)
        for unit in batch.units:
            self.queue_seconds.add(batch.began - unit.arrived)


class CacheTally:
    """Look-ups of counts."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        """What the cache did not have, or could not say."""

    def __repr__(self) -> str:
        return f"<CacheTally {self.hits} hits, {self.misses} misses>"


class MoveTally:
    """Moves whose target this node is or was."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        """How often a move came to a state."""
        self.failed = 0
        """Attempts that were given up."""
        self.pause_seconds = Distribution(PAUSES)
        """From the freeze to the first possible write."""

    def __repr__(self) -> str:
        return f"<MoveTally {dict(self.reached)}, {self.failed} failed>"
