"""Up to which intents unlikes were swept, as the writer knows it: a copy of what the slots' rows say.

An unlike that was swept can stand against no older like any more. So a like with an intent of before that is refused:
whether the edge has been unliked since cannot be told. Loaded with the slots, changed only in the writer's turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SweptIntents:
    """By slot, in µs since 1970. For one event loop."""

    def __init__(self) -> None:
        self._by_slot: dict[int, int] = {}
        self._highest = 0

    def __repr__(self) -> str:
        return f"<SweptIntents of {len(self._by_slot)} slots, up to {self._highest}>"

    def __bool__(self) -> bool:
        """Whether anything was swept in any slot."""
        return self._highest > 0

    def replace(self, by_slot: Mapping[int, int]) -> None:
        """Takes over what the slots' rows say; forgets all others."""
        self._by_slot = {slot: intent for slot, intent in by_slot.items() if intent}
        self._highest = max(self._by_slot.values(), default=0)

    def note(self, slot: int, intent: int) -> None:
        """A sweep has been committed."""
        self._by_slot[slot] = max(intent, self._by_slot.get(slot, 0))
        self._highest = max(self._highest, intent)

    def refused(self, likes: Sequence[bool], slots: Sequence[int], intents: Sequence[int]) -> list[int]:
        """Positions of the likes that are too old. Unlikes are none: they bring nothing back. 0: no intent."""
        if min(intents, default=0) >= self._highest:
            return []
        swept = self._by_slot
        return [
            position
            for position, (like, slot, intent) in enumerate(zip(likes, slots, intents, strict=True))
            if like and 0 < intent < swept.get(slot, 0)
        ]
