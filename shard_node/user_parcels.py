"""What a node tells another one of its users: parcels of pages, and how each destination stands."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from shard_node.user_store import ToldEdge, UserChange

FIRST_BACKOFF: Final = 0.05
"""Seconds."""
MOST_BACKOFF: Final = 2.0


class Portion:
    """A page of one slot for one destination: from ``start`` to ``end``; ``complete``: there was no more."""

    __slots__ = ("complete", "end", "epoch", "first", "revs", "since", "slot", "start", "user_slots")

    def __init__(self, slot: int, epoch: int, start: int, end: int, complete: bool, since: float) -> None:
        self.slot = slot
        self.epoch = epoch
        self.start = start
        self.end = end
        self.complete = complete
        self.since = since
        self.first = 0
        self.revs: list[int] = []
        self.user_slots: list[int] = []


class Detour:
    """The way on through a slot's changes past those that were refused, while the mark stays before these.

    One slot of users that takes nothing for a while is not to keep all other users of its node waiting. So the pages go
    on to the end, and then again from the mark with what concerns the slots that refused, until none does.
    """

    __slots__ = ("again", "position", "refused", "since", "told")

    def __init__(self, since: float) -> None:
        self.since = since
        self.position = 0
        """Where the next page begins, if that is above the mark."""
        self.told = 0
        """Up to here the node has accepted everything, but for users in the slots of ``again``."""
        self.again: frozenset[int] = frozenset()
        self.refused: set[int] = set()
        """Slots of users that have refused on this way through."""

    def lacks(self, rev: int, user_slot: int) -> bool:
        """Whether the node may not have this change."""
        return rev > self.told or user_slot in self.again

    def answered(self, portion: Portion, refused: Sequence[bool]) -> bool:
        """Notes an answer. True when this was the end of a way on which nothing was refused."""
        self.refused.update(
            slot for slot, was_refused in zip(portion.user_slots, refused, strict=False) if was_refused
        )
        self.position = portion.end
        self.told = max(self.told, portion.end)
        if not portion.complete:
            return False
        self.position = 0
        self.again, self.refused = frozenset(self.refused), set()
        return not self.again


class Parcel:
    """What one call tells one destination."""

    __slots__ = ("epochs", "portions", "rows")

    def __init__(self) -> None:
        self.portions: list[Portion] = []
        self.rows: list[ToldEdge] = []
        self.epochs: list[int] = []

    def add(
        self, portion: Portion, changes: Sequence[tuple[UserChange, int, int]], detour: Detour | None
    ) -> None:
        """Puts in those of the changes, each with its user's slot and that one's epoch, that the destination lacks."""
        portion.first = len(self.rows)
        for change, user_slot, epoch in changes:
            if change.rev > portion.start and (detour is None or detour.lacks(change.rev, user_slot)):
                self.rows.append(
                    ToldEdge(
                        change.user_id,
                        change.post_id,
                        change.rev,
                        change.liked,
                        change.like_time,
                        change.first,
                    )
                )
                self.epochs.append(epoch)
                portion.revs.append(change.rev)
                portion.user_slots.append(user_slot)
        if portion.revs:
            portion.since = portion.revs[0] / 1e6


class Destination:
    """One node as it is told. ``pending``: slot → since when (seconds since 1970) it may lack a change of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending: dict[int, float] = {}
        self.sending: asyncio.Task[None] | None = None
        self.parcel: Parcel | None = None
        self.detours: dict[int, Detour] = {}
        """By slot, where something was refused."""
        self.failures = 0
        self.not_before = 0.0

    def __repr__(self) -> str:
        return f"<Destination {self.name}, {len(self.pending)} slots pending, {self.failures} failures>"

    def owes(self, slot: int, since: float) -> None:
        """There may be something of the slot that it lacks."""
        self.pending[slot] = min(self.pending.get(slot, since), since)

    def position(self, slot: int, mark: int) -> int:
        """After which revision the next page of the slot begins."""
        detour = self.detours.get(slot)
        return mark if detour is None else max(mark, detour.position)

    def take_back(self, parcel: Parcel) -> None:
        """What was not accepted is still to be told."""
        self.parcel = None
        for portion in parcel.portions:
            self.owes(portion.slot, portion.since)

    def is_ready(self, now: float) -> bool:
        """Whether it can be told something now (monotonic)."""
        return self.sending is None and now >= self.not_before

    def answered(self, *, well: bool) -> None:
        """May be told more at once; or after a while, twice as long as the last time."""
        if well:
            self.failures = 0
            self.not_before = 0.0
        else:
            backoff = min(FIRST_BACKOFF * 2 ** min(self.failures, 10), MOST_BACKOFF)
            self.failures += 1
            self.not_before = time.monotonic() + backoff * random.uniform(0.5, 1.0)

    def give_up(self) -> None:
        """Nothing is told any more."""
        if self.sending is not None:
            self.sending.cancel()

    def lag(self, now: float) -> float:
        """Age in seconds of the oldest change that it may lack."""
        under_way = [portion.since for portion in self.parcel.portions] if self.parcel else []
        return max(0.0, now - min([*self.pending.values(), *under_way], default=now))
