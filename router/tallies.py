"""What the lanes have sent, for the metrics."""

from __future__ import annotations

from collections import Counter

from likering.serving.distribution import OPERATIONS, Distribution


class TrafficTally:
    """The batches of one kind of traffic, to whatever node. Lives on the event loop of the lanes."""

    __slots__ = ("batch_operations", "batch_seconds", "fates", "queue_seconds")

    def __init__(self) -> None:
        self.fates: Counter[tuple[str, str]] = Counter()
        """Batches, by node and what became of them."""
        self.batch_operations = Distribution(OPERATIONS)
        self.batch_seconds = Distribution()
        """From the sending of a batch to its answer."""
        self.queue_seconds = Distribution()
        """How long the first operation of each batch had waited."""

    def __repr__(self) -> str:
        return f"<TrafficTally of {self.fates.total()} batches>"

    def sent(self, node: str, fate: str, operations: int, queued: float, seconds: float) -> None:
        """A batch has come back, or will not."""
        self.fates[node, fate] += 1
        self.batch_operations.add(operations)
        self.queue_seconds.add(queued)
        self.batch_seconds.add(seconds)
