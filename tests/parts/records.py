"""What callers did and were told: one record for each call, or for each item of a call that has several.

All times are of one clock of one process: ``now_us``, which never steps back and reads like the wall clock, so that
intents and the revisions that servers issue can be compared with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from likering.client.model import Outcome

Edge = tuple[str, str]
"""(post_id, user_id)"""

_ANCHOR_US = time.time_ns() // 1000 - time.monotonic_ns() // 1000


def now_us() -> int:
    """µs since 1970 when this process began, and from then on by the monotonic clock."""
    return _ANCHOR_US + time.monotonic_ns() // 1000


@dataclass(frozen=True, slots=True)
class Change:
    """A like or an unlike. ``end`` and ``outcome`` are None when the call failed: it may have taken effect or not.

    ``intent`` is 0 for none. Those of one ``call`` (0: it was alone) take effect, edge by edge, in the order of
    ``index``.
    """

    caller: int
    begin: int
    end: int | None
    edge: Edge
    like: bool
    intent: int = 0
    outcome: Outcome | None = None
    version: int = 0
    count: int = 0
    call: int = 0
    index: int = 0

    @property
    def changed(self) -> bool:
        """Whether it was answered that this changed something."""
        return self.outcome is Outcome.CHANGED


@dataclass(frozen=True, slots=True)
class LikeSeen:
    """An answer to whether an edge is liked."""

    caller: int
    begin: int
    end: int
    edge: Edge
    liked: bool
    strong: bool


@dataclass(frozen=True, slots=True)
class CountSeen:
    """An answer to how many like a post."""

    caller: int
    begin: int
    end: int
    post_id: str
    version: int
    count: int
    strong: bool


@dataclass(slots=True)
class History:
    """All records of a run. ``failures``: what was said by calls that failed."""

    changes: list[Change] = field(default_factory=list)
    likes_seen: list[LikeSeen] = field(default_factory=list)
    counts_seen: list[CountSeen] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.changes) + len(self.likes_seen) + len(self.counts_seen)

    def __repr__(self) -> str:
        return f"<History of {len(self)}, {len(self.failures)} failures>"


@dataclass(slots=True)
class Stored:
    """What the databases of a cluster hold at the end."""

    edges: dict[Edge, tuple[bool, int]] = field(default_factory=dict)
    """Edge → (liked, newest intent)."""
    posts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """post_id → (version, count)."""
    twice: list[str] = field(default_factory=list)
    """What more than one node holds."""

    @property
    def liked(self) -> set[Edge]:
        """The edges that are liked."""
        return {edge for edge, (liked, _) in self.edges.items() if liked}
