"""Which slots this node may serve, as its own database says it.

The map in memory is only a copy: every writing transaction carries the ``slots_seq`` that the copy was read at, and
the fence refuses it when the database has moved on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import OP_CODE_MOVING, OP_CODE_NOT_OWNER, OpCode

READ_LEASE = 1.0
"""Seconds that a frozen slot's reads are served after the target's last word; the target knows it too."""


class SlotState(StrEnum):
    """What a node's database says of a slot."""

    OWNER = "owner"
    FROZEN = "frozen"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot's row. ``move`` and ``attempt`` are of the move that froze it or took it away.

    A slot that has moved keeps its row for good, without a move once the copy has been dropped. ``swept_intent``: no
    edge of a later intent was swept when the row was read.
    """

    epoch: int
    state: SlotState
    move: int | None = None
    attempt: int | None = None
    swept_intent: int = 0


class Ownership:
    """The slots of this node, for one event loop. What the database says is changed only by the writer, as a whole."""

    def __init__(self, slot_count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slot_count = slot_count
        self._clock = clock
        self._held: Mapping[int, HeldSlot] = {}
        self._writable: Mapping[int, int] = {}
        self._frozen: Mapping[int, int] = {}
        self._epochs: Mapping[int, int] = {}
        self._readable_until: dict[int, float] = {}
        self._reads_ended: set[int] = set()
        self._heard: dict[int, float] = {}
        self._arriving: dict[int, int] = {}
        self.on_replaced: list[Callable[[], None]] = []
        """Called whenever the database's word on the slots has been taken over."""

    def __repr__(self) -> str:
        return f"<Ownership {len(self._writable)} of {self._slot_count} slots, {len(self._frozen)} frozen>"

    @property
    def held(self) -> Mapping[int, HeldSlot]:
        """Slot → what the database says of it."""
        return self._held

    @property
    def owned(self) -> Mapping[int, int]:
        """Slot → epoch, of the slots that take writes."""
        return self._writable

    @property
    def epochs(self) -> Mapping[int, int]:
        """Slot → epoch, of the slots that can be read or written: frozen ones too."""
        return self._epochs

    def replace(self, held: Mapping[int, HeldSlot]) -> None:
        """Takes over what the database says now."""
        self._held = MappingProxyType(dict(held))
        self._writable = {slot: one.epoch for slot, one in held.items() if one.state is SlotState.OWNER}
        self._frozen = {slot: one.epoch for slot, one in held.items() if one.state is SlotState.FROZEN}
        self._epochs = {**self._writable, **self._frozen}
        self._readable_until = {
            slot: until for slot, until in self._readable_until.items() if slot in self._frozen
        }
        self._reads_ended &= self._frozen.keys()
        self._heard = {slot: at for slot, at in self._heard.items() if slot in self._frozen}
        for slot, epoch in list(self._arriving.items()):
            if self._writable.get(slot) == epoch:
                del self._arriving[slot]
        for listener in self.on_replaced:
            listener()

    def heard_of(self, slot: int) -> None:
        """The target of a slot's move has given a sign."""
        self._heard[slot] = self._clock()

    def read_on(self, slot: int) -> None:
        """A sign that lets the reads of a frozen slot go on for a while, unless they have been ended."""
        self.heard_of(slot)
        if slot not in self._reads_ended:
            self._readable_until[slot] = self._heard[slot] + READ_LEASE

    def stop_reads(self, slot: int) -> None:
        """Ends the reads of a frozen slot, as the target of its move wants it: for as long as it is frozen."""
        self.heard_of(slot)
        self._reads_ended.add(slot)
        self._readable_until.pop(slot, None)

    def silence(self, slot: int) -> float:
        """Seconds since the target's last word about a frozen slot; endless when it has not been heard at all."""
        heard = self._heard.get(slot)
        return float("inf") if heard is None else self._clock() - heard

    def arrives(self, slot: int, epoch: int) -> None:
        """The slot is this node's by the topology, and will be served in a moment."""
        self._arriving[slot] = epoch

    def arrives_not(self, slot: int) -> None:
        """It will not after all."""
        self._arriving.pop(slot, None)

    def slots_of(self, post_ids: Sequence[str]) -> list[int]:
        """The slot of each post."""
        count = self._slot_count
        return [slot_of(post_id, count) for post_id in post_ids]

    def refused_writes(self, slots: Sequence[int], epochs: Sequence[int]) -> dict[int, OpCode.ValueType]:
        """Position → why, of writes whose slot does not take any at the epoch that the sender knows."""
        own = self._writable
        return {
            position: self._reason(slot, epoch)
            for position, (slot, epoch) in enumerate(zip(slots, epochs, strict=True))
            if own.get(slot) != epoch
        }

    def refused_reads(self, slots: Sequence[int], epochs: Sequence[int]) -> dict[int, OpCode.ValueType]:
        """As ``refused_writes``, for reads: those of a frozen slot are served for a while."""
        refused = self.refused_writes(slots, epochs)
        if refused and self._frozen:
            now = self._clock()
            for position in list(refused):
                slot = slots[position]
                if self._frozen.get(slot) == epochs[position] and now < self._readable_until.get(slot, 0.0):
                    del refused[position]
        return refused

    def _reason(self, slot: int, epoch: int) -> OpCode.ValueType:
        moving = self._frozen.get(slot) == epoch or self._arriving.get(slot) == epoch
        return OP_CODE_MOVING if moving else OP_CODE_NOT_OWNER
