"""Conflation: of values that change often only the newest is handed on, and not too often. Time is given to it."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

UPDATE_INTERVAL: Final = 0.1
"""Seconds between two updates of one watched post."""


class Conflation(Generic[K, V]):
    """The newest value of each key that has not been taken yet. Holds one value per key, whatever comes.

    Times are in seconds of one clock that never goes back.
    """

    def __init__(self, interval: float = UPDATE_INTERVAL) -> None:
        """``interval``: seconds for which a key rests after its value was taken."""
        self._interval = interval
        self._ready: dict[K, V] = {}
        self._held_back: dict[K, V] = {}
        self._resting: dict[K, float] = {}
        """Until when. All rest equally long, so the order of insertion is the order in which they end."""

    def __repr__(self) -> str:
        return f"<Conflation {len(self._ready)} ready, {len(self._held_back)} held back>"

    def offer(self, key: K, value: V) -> None:
        """The value is the key's newest: an older one that was not taken is forgotten."""
        (self._held_back if key in self._resting else self._ready)[key] = value

    def forget(self, key: K) -> None:
        """The key's value is not to be taken any more."""
        self._ready.pop(key, None)
        self._held_back.pop(key, None)

    def due_in(self, now: float) -> float | None:
        """Seconds until it is worth to ``take``: 0 when there is something, None when there is nothing to come."""
        self._wake(now)
        if self._ready:
            return 0.0
        if not self._held_back:
            return None
        return next(iter(self._resting.values())) - now

    def take(self, now: float, most: int) -> dict[K, V]:
        """At most so many of the values whose keys do not rest. They rest from now on."""
        self._wake(now)
        if len(self._ready) <= most:
            taken, self._ready = self._ready, {}
        else:
            taken = {key: self._ready.pop(key) for key in list(self._ready)[:most]}
        self._resting.update(dict.fromkeys(taken, now + self._interval))
        return taken

    def _wake(self, now: float) -> None:
        while self._resting:
            key = next(iter(self._resting))
            if self._resting[key] > now:
                return
            del self._resting[key]
            if key in self._held_back:
                self._ready[key] = self._held_back.pop(key)
