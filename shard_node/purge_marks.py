"""The posts whose likes are being erased, as the writer knows them: a copy of the marks in the posts' rows.

Loaded with the slots and changed only in the writer's turn, so a like that is checked here meets what its transaction
would find. Empty nearly always: then a batch pays for one look at an empty dict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from shard_node.packed_ids import unpack
from shard_node.purge_keys import ABOVE_ALL, PLACES
from shard_node.store import Connection, execute_for_slots


class PurgeMark(NamedTuple):
    """A purge under way: the slot that is marked, and the revision at which the purge began."""

    slot: int
    began: int


class Purges(NamedTuple):
    """The purges under way of some slots, by post and by user."""

    posts: Sequence[tuple[str, PurgeMark]]
    users: Sequence[tuple[str, PurgeMark]]


NO_PURGES: Final = Purges((), ())


class PurgeMarks:
    """By post. For one event loop."""

    def __init__(self) -> None:
        self._marks: dict[str, PurgeMark] = {}

    def __repr__(self) -> str:
        return f"<PurgeMarks of {len(self._marks)} posts>"

    def __len__(self) -> int:
        return len(self._marks)

    def began(self, post_id: str) -> int | None:
        """The revision at which the purge of a post began; None when there is none under way."""
        mark = self._marks.get(post_id)
        return None if mark is None else mark.began

    def add(self, post_id: str, mark: PurgeMark) -> None:
        """A purge has begun."""
        self._marks[post_id] = mark

    def remove(self, post_id: str) -> None:
        """A purge has ended."""
        self._marks.pop(post_id, None)

    def of_slot(self, slot: int) -> list[tuple[str, PurgeMark]]:
        """The marks of one slot."""
        return [entry for entry in self._marks.items() if entry[1].slot == slot]

    def replace(self, keep: Collection[int], loaded: Iterable[tuple[str, PurgeMark]]) -> None:
        """Keeps the marks of these slots, forgets all others, and takes over what was loaded."""
        self._marks = {post_id: mark for post_id, mark in self._marks.items() if mark.slot in keep}
        self._marks.update(loaded)

    def refused(self, likes: Sequence[bool], post_ids: Sequence[str]) -> list[int]:
        """Positions of the likes of marked posts. Unlikes are none: they take away what is to go anyway."""
        marks = self._marks
        return [
            position
            for position, (like, post_id) in enumerate(zip(likes, post_ids, strict=True))
            if like and post_id in marks
        ]


async def load_marks(connection: Connection, slots: Sequence[int]) -> Purges:
    """What the rows of these slots say."""
    if not slots:
        return NO_PURGES
    cursor = await execute_for_slots(connection, "purging", {"behind": ABOVE_ALL, "before": PLACES}, slots)
    posts: list[tuple[str, PurgeMark]] = []
    users: list[tuple[str, PurgeMark]] = []
    for key, slot, began in await cursor.fetchall():
        name = key.removeprefix(ABOVE_ALL)
        if name.startswith(ABOVE_ALL):
            users.append((unpack(name.removeprefix(ABOVE_ALL)), PurgeMark(slot, began)))
        else:
            posts.append((unpack(name), PurgeMark(slot, began)))
    return Purges(posts, users)
