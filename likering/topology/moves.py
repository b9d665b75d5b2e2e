"""One slot's way from node to node: its states, which of them may follow which, and what a store of moves can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from likering.errors import TopologyChanged
from likering.ring.plan import Move as PlannedMove


class MoveState(StrEnum):
    """Where a move is; docs/handoff.md has the picture."""

    PLANNED = "planned"
    COPYING = "copying"
    CATCHING_UP = "catching_up"
    FREEZING = "freezing"
    ABORTED = "aborted"
    COMMITTED = "committed"
    ACTIVATING = "activating"
    ACTIVE = "active"
    MOVED = "moved"
    VERIFIED = "verified"
    RETIRED = "retired"
    CANCELLED = "cancelled"
    REVERTED = "reverted"


ENDED = frozenset((MoveState.RETIRED, MoveState.CANCELLED, MoveState.REVERTED))
"""Nothing is left to do."""
SETTLED = ENDED | {MoveState.VERIFIED}
"""The slot may move again; at most the source's copy is still kept."""
UNCOMMITTED = frozenset(
    (MoveState.PLANNED, MoveState.COPYING, MoveState.CATCHING_UP, MoveState.FREEZING, MoveState.ABORTED)
)
"""The source is the owner, and the move can be cancelled."""
UNDER_WAY = frozenset(
    (MoveState.COPYING, MoveState.CATCHING_UP, MoveState.FREEZING, MoveState.COMMITTED, MoveState.ACTIVATING)
)
"""Both nodes work on it: these count against ``slots_at_once``."""

NEXT: Mapping[MoveState, frozenset[MoveState]] = {
    MoveState.PLANNED: frozenset((MoveState.COPYING, MoveState.CANCELLED)),
    MoveState.COPYING: frozenset((MoveState.CATCHING_UP, MoveState.PLANNED, MoveState.CANCELLED)),
    MoveState.CATCHING_UP: frozenset((MoveState.FREEZING, MoveState.PLANNED, MoveState.CANCELLED)),
    MoveState.FREEZING: frozenset(
        (MoveState.COMMITTED, MoveState.ACTIVATING, MoveState.ABORTED, MoveState.CANCELLED)
    ),
    MoveState.ABORTED: frozenset((MoveState.PLANNED, MoveState.CANCELLED)),
    MoveState.COMMITTED: frozenset((MoveState.ACTIVATING, MoveState.REVERTED)),
    MoveState.ACTIVATING: frozenset((MoveState.ACTIVE, MoveState.REVERTED)),
    MoveState.ACTIVE: frozenset((MoveState.MOVED, MoveState.RETIRED)),
    MoveState.MOVED: frozenset((MoveState.VERIFIED, MoveState.RETIRED)),
    MoveState.VERIFIED: frozenset((MoveState.RETIRED,)),
    MoveState.RETIRED: frozenset(),
    MoveState.CANCELLED: frozenset(),
    MoveState.REVERTED: frozenset(),
}
"""Which state may follow. To PLANNED only with another attempt; from ACTIVATING to REVERTED, and from ACTIVE and MOVED
to RETIRED, only when a node is lost for good (``lost_nodes``)."""


class MoveChanged(TopologyChanged):
    """The move is in another state, or at another attempt, by now."""


@dataclass(frozen=True, slots=True)
class SlotMove:
    """One move. Times are the topology database's; durations are in µs.

    ``epoch`` is the slot's when the move was planned: the source's. ``attempt`` grows whenever somebody takes the move
    up anew, and whoever still works on an earlier one can change nothing. ``waits_for`` says why it does not go on.
    """

    move: int
    resize: int
    slot: int
    source: str
    target: str
    epoch: int
    attempt: int
    state: MoveState
    state_since: datetime
    created_at: datetime
    rows_total: int
    rows_copied: int
    lag_us: int | None
    pause_us: int | None
    last_rev: int | None
    waits_for: str
    waits_since: datetime | None
    last_error: str
    word_at: datetime
    state_age: float
    """Seconds since ``state_since`` when this was read."""
    word_age: float
    """Seconds since ``word_at`` when this was read."""

    def __str__(self) -> str:
        return f"move {self.move} of slot {self.slot} from {self.source} to {self.target}"

    @property
    def actor(self) -> str | None:
        """The node that is to do the next step; None when the move has ended."""
        if self.state in ENDED:
            return None
        return self.source if self.state in (MoveState.ACTIVE, MoveState.VERIFIED) else self.target


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """What operators set at run time.

    ``slots_at_once`` is for each node, as source and as target; ``rows_per_second`` for what a node copies (0: no
    limit); ``pause_budget_ms`` the longest freeze before it is aborted; ``grace_seconds`` how long a source keeps
    its copy of a slot that was verified; ``verify_rows_per_second`` how fast each node compares its counts with its
    likes, moves or not (0: not at all).
    """

    paused: bool = False
    slots_at_once: int = 1
    rows_per_second: int = 20_000
    pause_budget_ms: int = 100
    grace_seconds: int = 900
    verify_rows_per_second: int = 20_000


@dataclass(frozen=True, slots=True)
class MoveEvent:
    """A transition: ``state`` was reached at ``at``, by ``who``."""

    move: int
    at: datetime
    attempt: int
    state: MoveState
    who: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resize:
    """A plan that was applied, and when."""

    resize: int
    plan: Mapping[str, Any]
    created_at: datetime


class MoveStore(Protocol):
    """Keeps the moves. Every call raises TopologyUnavailable, in bounded time, when the store does not answer.

    After that the outcome of a change is unknown: read the move again before anything else is done about it.
    """

    async def apply(
        self,
        expected_version: int,
        moves: Sequence[PlannedMove],
        plan: Mapping[str, Any],
        who: str,
        *,
        weights: Mapping[str, int] | None = None,
    ) -> int:
        """Begin a resize; returns its number. ``weights`` (node name → weight) are set along with it, or neither is.

        Raises PlanStale unless the topology is still at ``expected_version`` and each slot with its owner and epoch,
        and while any slot moves.
        """

    async def moves(self, *, resize: int | None = None, ended: bool = False) -> list[SlotMove]:
        """The moves in the order of their numbers; without ``ended`` only those with something left to do."""

    async def to_do(self, node: str) -> list[SlotMove]:
        """What a node is to look at, in the order of the moves' numbers, however many there are.

        Moves of any node that are begun and not settled; of the planned ones to this node the first few from each
        source; copies that this node keeps and whose grace period is over.
        """

    async def ended(self, moves: Collection[int]) -> set[int]:
        """Those of these numbers whose moves have ended, or never were."""

    async def never_compared(self, moves: Collection[int]) -> set[int]:
        """Those of these numbers whose moves were retired although nobody has compared the source's copy."""

    async def move(self, move: int) -> SlotMove:
        """One move. Raises MoveChanged when there is none."""

    async def begin(self, move: SlotMove, who: str) -> str:
        """PLANNED → COPYING, if the limits allow it; otherwise says what it waits for. Raises MoveChanged."""

    async def advance(
        self, move: SlotMove, to: MoveState, who: str, detail: Mapping[str, Any] | None = None, **facts: Any
    ) -> SlotMove:
        """Compare-and-set from the given move's state and attempt to ``to``, noting ``facts`` (columns).

        Going to PLANNED raises the attempt. Raises MoveChanged when the move is elsewhere by now.
        """

    async def commit(
        self, move: SlotMove, to: MoveState, who: str, detail: Mapping[str, Any], **facts: Any
    ) -> SlotMove:
        """FREEZING → ``to`` and the slot's owner → the target at the next epoch: one transaction.

        ``to``: COMMITTED, or ACTIVATING when the source has ended its reads. Who watches the topology is told when
        the move is ACTIVE: before that the target serves nobody.
        """

    async def revert(self, move: int, who: str) -> SlotMove:
        """COMMITTED → REVERTED and the slot's owner → the source, at an epoch above the target's."""

    async def cancel(self, moves: Collection[int], who: str) -> list[SlotMove]:
        """Cancel those that are uncommitted, thousands of them piece by piece; returns all of them as they are now."""

    async def give_up(self, node: str, who: str, *, remove: bool = False) -> list[SlotMove]:
        """End the moves that need a node which is lost for good; returns all that it takes part in, as they are now.

        Those whose target serves become RETIRED; those that the node has committed to take REVERTED, at an epoch above;
        those that are uncommitted CANCELLED. ``remove``: forget the node too, in the same transaction, or change
        nothing. Raises NodeUnknown, and, with ``remove``, NodeOwnsSlots while nobody else has all likes of a slot.
        """

    async def report(self, move: SlotMove, **facts: Any) -> None:
        """Note how far an attempt is (columns), while it is the current one."""

    async def limits(self) -> MoveLimits:
        """The limits as they are now."""

    async def set_limits(self, **changes: int | bool) -> MoveLimits:
        """Change some of the limits."""

    async def events(self, moves: Collection[int]) -> list[MoveEvent]:
        """What happened to these moves, in order."""

    async def resizes(self, limit: int, *, resize: int | None = None) -> list[Resize]:
        """The newest resizes, newest first; or that one only."""

    def changes(self) -> AsyncGenerator[str, None]:
        """Names of nodes that have something to do, empty for all of them: one at once, then after such changes.

        Some may be left out, the last is not. Raises TopologyUnavailable when the connection breaks.
        """

    async def close(self) -> None:
        """Give back what the store holds."""
