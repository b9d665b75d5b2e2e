"""The change feed of the service in memory: the same events and cursors as a cluster's, until the process ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from likering.ring.hashing import slot_of

SLOTS: Final = 64
"""As a cluster has by default."""
_FEW: Final = 1000


class Edge(Protocol):
    """What the feed knows of an edge."""

    @property
    def revision(self) -> int: ...
    @property
    def first_revision(self) -> int: ...


class Purge(NamedTuple):
    """Stands for the edges of a post, or of a user in a slot, where they were erased."""

    revision: int
    first_revision: int = 0


class Entry(NamedTuple):
    """An edge at a place of the feed; or a purge: of a post, then without a user, or of a user, without a post."""

    user_id: str
    post_id: str
    edge: Edge
    slot: int


class ChangeLog:
    """Who changed at which revision: each edge at its last change, and at its first like; and each purge.

    An edge that is erased has the revision 0 from then on. Its owner locks the log.
    """

    def __init__(self) -> None:
        self._places: list[int] = []
        self._entries: list[Entry] = []
        self._stale = 0
        self._watchers: set[Callable[[], object]] = set()

    def __repr__(self) -> str:
        return f"<ChangeLog of {len(self._places)} entries, {self._stale} stale>"

    def changed(self, user_id: str, post_id: str, edge: Edge, before: int) -> None:
        """The edge has changed to its present revision, the highest of all, from revision ``before`` (0: none)."""
        self._add(Entry(user_id, post_id, edge, slot_of(post_id, SLOTS)))
        if before not in (0, edge.first_revision):
            self._outdated(1)
        self.wake()

    def purged(self, user_id: str, post_id: str, slot: int, revision: int, edges: int) -> None:
        """So many edges of a post, or of a user (the other id is empty), in this slot have been erased."""
        self._add(Entry(user_id, post_id, Purge(revision), slot))
        self._outdated(edges)
        self.wake()

    def after(
        self, positions: Mapping[int, int], last: int, limit: int
    ) -> tuple[list[tuple[Entry, bool]], int]:
        """Entries after the positions (slot → revision) with whether each is a first like; and the position then.

        ``last``: the highest revision given so far.
        """
        found: list[tuple[int, Entry]] = []
        end = last
        for number in range(bisect_right(self._places, min(positions.values())), len(self._places)):
            place, entry = self._places[number], self._entries[number]
            if place <= positions.get(entry.slot, last) or not _stands(place, entry):
                continue
            found.append((place, entry))
            if len(found) == limit:
                end = place
                break
        return [
            (entry, entry.edge.first_revision > positions[entry.slot])
            for place, entry in found
            if place == entry.edge.revision or entry.edge.revision > end
        ], end

    @contextmanager
    def watched(self, wake: Callable[[], object]) -> Iterator[None]:
        """Has ``wake`` called at each change, in whichever thread makes it."""
        self._watchers = {*self._watchers, wake}
        try:
            yield
        finally:
            self._watchers = self._watchers - {wake}

    def wake(self) -> None:
        """Has all who watch look."""
        for wake in self._watchers:
            wake()

    def _add(self, entry: Entry) -> None:
        self._places.append(entry.edge.revision)
        self._entries.append(entry)

    def _outdated(self, entries: int) -> None:
        self._stale += entries
        if self._stale > _FEW and self._stale > len(self._places) // 2:
            self._sweep()

    def _sweep(self) -> None:
        kept = [
            (place, entry)
            for place, entry in zip(self._places, self._entries, strict=True)
            if _stands(place, entry)
        ]
        self._places = [place for place, _ in kept]
        self._entries = [entry for _, entry in kept]
        self._stale = 0


def _stands(place: int, entry: Entry) -> bool:
    return place in (entry.edge.revision, entry.edge.first_revision)
