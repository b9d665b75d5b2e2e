"""The numbers of posts, as far as the writer knows them, and which ones come next.

A post keeps its number for as long as its slot is here, and there is one writer, which gives the numbers: so what it
has committed stays true until the slot leaves, or another process may have written; then it says so by ``keep``. A like
of a post that is known need not look for the post's row, nor need a read, which tells of what it had to look up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

HIGHEST_NUMBER: Final = 2**31 - 1
"""That a post can have."""
MOST_KNOWN: Final = 200_000
"""Posts that are remembered, in some 30 MB."""


class PostNumbers:
    """By slot and post. For one event loop."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._known: dict[int, dict[str, int]] = {}
        self._size = 0
        self._highest: dict[int, int] = {}
        self.era = 0
        """Grows whenever something is forgotten: what was read from the database before may be true no longer."""

    def __repr__(self) -> str:
        return f"<PostNumbers of {self._size} posts>"

    def keep(self, slots: Collection[int]) -> None:
        """Forgets everything of all other slots."""
        self.era += 1
        self._known = {slot: known for slot, known in self._known.items() if slot in slots}
        self._highest = {slot: number for slot, number in self._highest.items() if slot in slots}
        self._size = sum(map(len, self._known.values()))

    def lacks(self, slots: Collection[int]) -> set[int]:
        """Those of the slots whose highest number is not known: ``next`` needs that."""
        return set(slots).difference(self._highest)

    def highest(self, slot: int, number: int) -> None:
        """So far the slot's posts have numbers up to this one."""
        self._highest[slot] = number

    def used(self, numbers: Mapping[str, int], slots: Mapping[str, int]) -> None:
        """Posts have these numbers, be it in a transaction that is not committed yet. ``slots``: of each post."""
        for post_id, number in numbers.items():
            slot = slots[post_id]
            if number > self._highest.get(slot, 0):
                self._highest[slot] = number

    def learn(self, numbers: Mapping[str, int], slots: Mapping[str, int]) -> None:
        """Posts have these numbers for good: they have been committed. ``slots``: of each post."""
        self.used(numbers, slots)
        self.remember(numbers, slots)

    def remember(self, numbers: Mapping[str, int], slots: Mapping[str, int]) -> None:
        """As ``learn``, of posts that were read, which does not tell which numbers their slots' other posts have."""
        for post_id, number in numbers.items():
            known = self._known.setdefault(slots[post_id], {})
            if post_id not in known:
                known[post_id] = number
                self._size += 1
        while self._size > self._most:
            # A whole slot, the one that began to gather first: which posts are asked for again, nobody knows.
            self._size -= len(self._known.pop(next(iter(self._known))))

    def known(self, slots: Mapping[str, int]) -> list[int | None]:
        """The number of each post, given with its slot, if it is known."""
        nothing: dict[str, int] = {}
        known = self._known
        return [known.get(slot, nothing).get(post_id) for post_id, slot in slots.items()]

    def next(self, slots: Iterable[int]) -> Sequence[int]:
        """Numbers for new posts of these slots, one each. They are free until they are ``used``."""
        given: dict[int, int] = {}
        numbers = []
        for slot in slots:
            given[slot] = number = given.get(slot, self._highest.get(slot, 0)) + 1
            numbers.append(number)
        return numbers
