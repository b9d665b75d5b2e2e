"""The pure half of a group commit: what a batch of operations does to the edges and posts that it touches.

Operations are folded in the order of the batch, each as if it were alone, so that like, unlike and like again of one
edge in one batch answer each as if one after the other. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from likering.shard.v1.shard_service_pb2 import (
    OP_OUTCOME_CHANGED,
    OP_OUTCOME_SUPERSEDED,
    OP_OUTCOME_UNCHANGED,
    OpOutcome,
)

EdgeKey = tuple[str, str]
"""(post_id, user_id)"""


class Operation(NamedTuple):
    """One like or unlike. ``rev`` is its revision, ``intent`` the caller's intent time or 0, both in µs."""

    post_id: str
    user_id: str
    slot: int
    like: bool
    intent: int
    rev: int


@dataclass(slots=True)
class EdgeState:
    """An edge as the database has it, or as it will have it."""

    slot: int
    liked: bool = False
    rev: int = 0
    intent: int = 0
    first_rev: int | None = None
    liked_at: int | None = None
    """Since when, of a like that was brought in from elsewhere; None: since the revision."""


@dataclass(slots=True)
class PostChange:
    """What a batch does to one post: number of changes, and what they add to the count."""

    slot: int
    changes: int = 0
    delta: int = 0


class Answer(NamedTuple):
    """One operation's outcome, and what the batch had done to its post right after it."""

    outcome: OpOutcome.ValueType
    changes: int
    delta: int


@dataclass(slots=True)
class Folded:
    """``answers`` in the order of the operations; ``edges`` to write; ``posts`` that were touched at all."""

    answers: list[Answer] = field(default_factory=list)
    edges: dict[EdgeKey, EdgeState] = field(default_factory=dict)
    posts: dict[str, PostChange] = field(default_factory=dict)


def fold(operations: Sequence[Operation], known: Mapping[EdgeKey, EdgeState]) -> Folded:
    """Applies the operations to the ``known`` edges (absent: never seen). ``known`` is not changed."""
    folded = Folded()
    states: dict[EdgeKey, EdgeState] = {}
    for operation in operations:
        key = (operation.post_id, operation.user_id)
        state = states.get(key)
        if state is None:
            before = known.get(key)
            state = states[key] = EdgeState(operation.slot) if before is None else replace(before)
        post = folded.posts.get(operation.post_id)
        if post is None:
            post = folded.posts[operation.post_id] = PostChange(operation.slot)
        intent_before = state.intent
        outcome = _apply(operation, state)
        if outcome == OP_OUTCOME_CHANGED:
            post.changes += 1
            post.delta += 1 if operation.like else -1
        if outcome == OP_OUTCOME_CHANGED or state.intent != intent_before:
            folded.edges[key] = state
        folded.answers.append(Answer(outcome, post.changes, post.delta))
    return folded


def _apply(operation: Operation, state: EdgeState) -> OpOutcome.ValueType:
    if operation.intent and operation.intent < state.intent:
        return OP_OUTCOME_SUPERSEDED
    if state.liked == operation.like:
        # Without an explicit intent a repetition leaves no trace; with one, it is remembered even here, so that a
        # late retry of something older loses. An edge that was never seen gets its first revision: a tombstone.
        if operation.intent > state.intent:
            state.intent = operation.intent
            state.rev = state.rev or operation.rev
        return OP_OUTCOME_UNCHANGED
    state.intent = max(state.intent, operation.intent or operation.rev)
    if operation.like and state.first_rev is None:
        state.first_rev = operation.rev
    state.liked = operation.like
    state.rev = operation.rev
    state.liked_at = None  # the time of an import is that of that like only
    return OP_OUTCOME_CHANGED
