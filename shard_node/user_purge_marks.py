"""The users who are being erased, as the writer knows them: by slot, a copy of the marks in each slot's rows.

A purge of a user began at a revision of the user's own slot, which is its number in all slots: a later one has a higher
number. As with ``purge_marks``: loaded with the slots, changed only in the writer's turn, empty nearly always.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from shard_node.purge_marks import PurgeMark


class UserPurgeMarks:
    """By user and slot. For one event loop."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[int, int]] = {}

    def __repr__(self) -> str:
        return f"<UserPurgeMarks of {len(self._marks)} users>"

    def __len__(self) -> int:
        return len(self._marks)

    def purge(self, user_id: str, slot: int) -> int:
        """The purge that the slot is marked for; 0: for none."""
        return self._marks.get(user_id, {}).get(slot, 0)

    def add(self, user_id: str, mark: PurgeMark) -> None:
        """The slot refuses the user from now on."""
        self._marks.setdefault(user_id, {})[mark.slot] = mark.began

    def remove(self, user_id: str, slot: int) -> None:
        """The slot refuses the user no longer."""
        marks = self._marks.get(user_id, {})
        marks.pop(slot, None)
        if not marks:
            self._marks.pop(user_id, None)

    def of_slot(self, slot: int) -> list[tuple[str, PurgeMark]]:
        """The marks of one slot."""
        return [
            (user_id, PurgeMark(slot, marks[slot])) for user_id, marks in self._marks.items() if slot in marks
        ]

    def replace(self, keep: Collection[int], loaded: Iterable[tuple[str, PurgeMark]]) -> None:
        """Keeps the marks of these slots, forgets all others, and takes over what was loaded."""
        before, self._marks = self._marks, {}
        for user_id, marks in before.items():
            for slot, purge in marks.items():
                if slot in keep:
                    self.add(user_id, PurgeMark(slot, purge))
        for user_id, mark in loaded:
            self.add(user_id, mark)

    def refused(self, user_ids: Sequence[str], slots: Sequence[int]) -> list[int]:
        """Positions of what concerns marked users. Unlikes too: that of a post never liked leaves a row behind."""
        marks = self._marks
        return [
            position
            for position, (user_id, slot) in enumerate(zip(user_ids, slots, strict=True))
            if user_id in marks and slot in marks[user_id]
        ]
