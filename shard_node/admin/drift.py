"""The counts of this node that are known to be wrong, as figures for Prometheus."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

MAX_KNOWN = 10_000
"""Posts that are remembered. With more of them it hardly matters how many there are."""


class Drift:
    """By slot and post (number → id). What has been looked at replaces what was known of it."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._known: dict[int, dict[int, str]] = {}
        self._drifted = Gauge(
            "likering_counts_drifted_posts",
            "Posts of this node whose stored count was not their number of likes when last looked at.",
            registry=registry,
        )
        self._verified = Counter(
            "likering_counts_verified_posts",
            "Posts whose count was compared with their likes.",
            registry=registry,
        )
        self._repaired = Counter(
            "likering_counts_repaired_posts", "Counts that were mended.", registry=registry
        )

    def __repr__(self) -> str:
        return f"<Drift of {self.posts} posts>"

    @property
    def posts(self) -> int:
        """How many are known."""
        return sum(map(len, self._known.values()))

    def verified(
        self, slot: int, after: int, last: int | None, posts: int, drifted: Mapping[int, str]
    ) -> None:
        """The posts of a slot behind ``after``, up to ``last`` (None: all), were compared: so many, these differ."""
        self._verified.inc(posts)
        known = {
            number: post_id
            for number, post_id in self._known.get(slot, {}).items()
            if not (number > after and (last is None or number <= last))
        }
        self._note(slot, known | dict(drifted))

    def repaired(self, slot: int, post_ids: Collection[str], mended: int) -> None:
        """These posts are right now; so many were not before."""
        self._repaired.inc(mended)
        known = self._known.get(slot, {})
        self._note(slot, {number: post_id for number, post_id in known.items() if post_id not in post_ids})

    def keep(self, slots: Collection[int] | Mapping[int, object]) -> None:
        """Forgets what is known of all other slots: they are elsewhere."""
        for slot in self._known.keys() - set(slots):
            del self._known[slot]
        self._drifted.set(self.posts)

    def _note(self, slot: int, known: dict[int, str]) -> None:
        room = MAX_KNOWN - (self.posts - len(self._known.get(slot, ())))
        self._known[slot] = dict(islice(sorted(known.items()), max(room, 0)))
        if not known:
            del self._known[slot]
        self._drifted.set(self.posts)
