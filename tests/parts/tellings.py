"""What owners of posts may tell of a user's edges: any changes, in any order, some twice and some not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from shard_node.user_chunks import Entry

BEGIN: Final = 4_000_000_000_000_000
"""The first revision: ahead of the clock of any test, so that no unlike is an old one."""


class Tellings:
    """Edges of one user with some posts, told in batches, each edge with whether it is its first like."""

    def __init__(self, seed: int, posts: Sequence[str], changes: int) -> None:
        chance = random.Random(seed)
        self.told: list[tuple[Entry, bool]] = []
        known: set[str] = set()
        for rev in range(BEGIN, BEGIN + changes):
            post = chance.choice(posts)
            first = post not in known
            known.add(post)
            # An import is of an older time, many of the same one; only an edge that never was can be brought in.
            like_time = BEGIN - chance.randrange(3) if first and chance.random() < 0.3 else rev
            entry = Entry(post, rev, first or chance.random() < 0.6, like_time)
            self.told += [(entry, first)] * chance.choice((0, 1, 1, 1, 2))
        if chance.random() < 0.5:
            chance.shuffle(self.told)
        # Batches of a few edges, which are searched for one by one, or of more.
        most = chance.choice((9, 9, 60))
        self.batches = [
            self.told[start : start + 1 + chance.randrange(most)] for start in range(0, len(self.told), most)
        ]

    def newest(self) -> dict[str, Entry]:
        """By post: what every user's side must end with."""
        newest: dict[str, Entry] = {}
        for entry, _ in (one for batch in self.batches for one in batch):
            known = newest.get(entry.post_id)
            if known is None or known.rev < entry.rev:
                newest[entry.post_id] = entry
        return newest
