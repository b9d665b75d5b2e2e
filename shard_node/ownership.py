"""Which slots this node may serve, as its own database says it.

The map in memory is only a copy: every writing transaction carries the ``slots_seq`` that the copy was read at, and
the fence refuses it when the database has moved on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from likering.ring.hashing import slot_of


class Ownership:
    """The owned slots and their epochs, for one event loop. Changed only by the writer, as a whole."""

    def __init__(self, slot_count: int) -> None:
        self._slot_count = slot_count
        self._epochs: Mapping[int, int] = {}

    def __repr__(self) -> str:
        return f"<Ownership {len(self._epochs)} of {self._slot_count} slots>"

    @property
    def epochs(self) -> Mapping[int, int]:
        """Slot → epoch, of the owned slots."""
        return self._epochs

    def replace(self, epochs: Mapping[int, int]) -> None:
        """Takes over what the database says now."""
        self._epochs = MappingProxyType(dict(epochs))

    def slots_of(self, post_ids: Sequence[str]) -> list[int]:
        """The slot of each post."""
        count = self._slot_count
        return [slot_of(post_id, count) for post_id in post_ids]

    def refused(self, slots: Sequence[int], epochs: Sequence[int]) -> list[int]:
        """Positions whose slot this node does not own at the epoch that the sender knows."""
        own = self._epochs
        return [
            position
            for position, (slot, epoch) in enumerate(zip(slots, epochs, strict=True))
            if own.get(slot) != epoch
        ]
