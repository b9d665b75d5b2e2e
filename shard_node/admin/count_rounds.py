"""How far the counts of each slot have been compared with its likes, and which slot is next. No I/O.

Round after round, the slot first whose counts have not been compared for the longest time. It is written down (the
table ``count_rounds``), so that a process that starts goes on where the one before has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class SlotRound:
    """Of one slot, at one epoch. Times in µs since 1970.

    ``verified_at``: all counts were compared then or later; before the first time, when the slot came. ``drifted``:
    some counts were wrong the last time. ``began``: of the comparison under way, which has come up to the post number
    ``post_no`` and ends at ``end`` (None: not known yet).
    """

    epoch: int
    verified_at: int
    drifted: bool = False
    began: int | None = None
    post_no: int = 0
    end: int | None = None
    found: bool = False
    """Whether the comparison under way has found some."""


class CountRounds:
    """Of the slots of one node, for one event loop."""

    def __init__(self, stored: Mapping[int, SlotRound], interval: int) -> None:
        """``stored``: what was written down. ``interval``: µs from the begin of one comparison of a slot to the next.

        What a process knew of wrong counts has ended with it. So slots that had some are gone over first, from their
        beginning.
        """
        self._stored = stored
        self._interval = interval
        self._rounds: dict[int, SlotRound] = {}
        self._first = {slot for slot, one in stored.items() if one.drifted}
        for slot in self._first:
            stored[slot].began = None
        self._under_way: int | None = None
        self._put_off: dict[int, int] = {}
        self.verified_since: int | None = None
        """Each count of the node was compared then or later. None: it has no slots."""

    def __repr__(self) -> str:
        return f"<CountRounds of {len(self._rounds)} slots, verified since {self.verified_since}>"

    def follow(self, epochs: Mapping[int, int], now: int) -> Mapping[int, SlotRound]:
        """The node has these slots, at these epochs. Returns those of which nothing is written down."""
        new: dict[int, SlotRound] = {}
        rounds: dict[int, SlotRound] = {}
        for slot, epoch in epochs.items():
            known = self._rounds.get(slot) or self._stored.get(slot)
            if known is None or known.epoch != epoch:
                known = new[slot] = SlotRound(epoch, now)
            rounds[slot] = known
        self._rounds, self._stored = rounds, {}
        self._note()
        return new

    def next(self, slots: Collection[int], now: int) -> int | None:
        """Which of the slots is to be compared now: the one under way, or that which waits longest, if it is due."""
        if self._under_way in self._rounds and self._is_ready(self._under_way, slots, now):
            return self._under_way
        ready = [slot for slot in self._rounds if self._is_ready(slot, slots, now)]
        slot = min(ready, key=self._turn, default=None)
        if slot is None:
            return None
        one = self._rounds[slot]
        is_due = slot in self._first or one.began is not None or one.verified_at + self._interval <= now
        return slot if is_due else None

    def take_up(self, slot: int, now: int) -> SlotRound:
        """The slot's comparison begins, or goes on where it was left."""
        self._under_way = slot
        one = self._rounds[slot]
        if one.began is None:
            one.began, one.post_no, one.end, one.found = now, 0, None, False
        return one

    def done(self, slot: int) -> None:
        """All counts of the slot have been compared."""
        one = self._rounds[slot]
        assert one.began is not None
        one.verified_at, one.began, one.drifted = one.began, None, one.found
        self._first.discard(slot)
        self._under_way = None
        self._note()

    def put_off(self, slot: int, until: int) -> None:
        """The slot cannot be looked at now: others first."""
        self._put_off[slot] = until

    def _is_ready(self, slot: int, slots: Collection[int], now: int) -> bool:
        return slot in slots and self._put_off.get(slot, 0) <= now

    def _turn(self, slot: int) -> tuple[bool, bool, int]:
        one = self._rounds[slot]
        return slot not in self._first, one.began is None, one.verified_at

    def _note(self) -> None:
        self.verified_since = min((one.verified_at for one in self._rounds.values()), default=None)
