"""The write semantics written down a second time, as plainly as possible: one operation after the other, no batches."""

from __future__ import annotations

from dataclasses import dataclass, field

from likering.shard.v1.shard_service_pb2 import (
    OP_OUTCOME_CHANGED,
    OP_OUTCOME_SUPERSEDED,
    OP_OUTCOME_UNCHANGED,
)


@dataclass
class LikeModel:
    """What the database must hold after a sequence of operations. Intents without a value are the operation's turn."""

    liked: set[tuple[str, str]] = field(default_factory=set)
    ever_liked: set[tuple[str, str]] = field(default_factory=set)
    intents: dict[tuple[str, str], int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def apply(self, *, like: bool, post_id: str, user_id: str, intent: int, now: int) -> tuple[int, int, int]:
        """Outcome, version and count right after one operation; ``now`` is later than any time before."""
        edge = (post_id, user_id)
        if intent and intent < self.intents.get(edge, 0):
            outcome = OP_OUTCOME_SUPERSEDED
        elif (edge in self.liked) == like:
            outcome = OP_OUTCOME_UNCHANGED
            if intent:
                self.intents[edge] = intent
        else:
            outcome = OP_OUTCOME_CHANGED
            self.intents[edge] = max(self.intents.get(edge, 0), intent or now)
            self.versions[post_id] = self.versions.get(post_id, 0) + 1
            if like:
                self.liked.add(edge)
                self.ever_liked.add(edge)
            else:
                self.liked.discard(edge)
        return outcome, self.versions.get(post_id, 0), self.count(post_id)

    def count(self, post_id: str) -> int:
        """Number of users who like the post."""
        return sum(1 for post, _ in self.liked if post == post_id)
