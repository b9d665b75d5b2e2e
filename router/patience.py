"""How long a call waits before it is tried again, and when it gives up."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import Final, Protocol

from likering.errors import RouterOverloaded

MARGIN: Final = 0.05
"""How long before the deadline to give up, in seconds, so that the caller hears why."""
MAX_WAITING: Final = 50_000
"""Most operations of one router worker that wait for a change."""
OVERLOAD_RETRY_SECONDS: Final = 0.25
FIRST_BACKOFF: Final = 0.02
FIRST_MOVING_BACKOFF: Final = 0.005
TOPOLOGY_PATIENCE: Final = 0.5
RECHECK: Final = 0.5
"""A change is told by the pulse; this is for one that came and went unseen."""

_LAST_BACKOFF: Final = 0.2
_MOST_DOUBLINGS: Final = 10  # a float overflows at 1024


def backoff(attempt: int, first: float = FIRST_BACKOFF) -> float:
    """Seconds to wait, after so many attempts, for something that nobody tells of."""
    # Spread, or all calls that failed together would come back together.
    doublings = min(attempt, _MOST_DOUBLINGS)
    return min(first * 2.0**doublings, _LAST_BACKOFF) * random.uniform(0.5, 1.0)


class Surroundings(Protocol):
    """What changes around a call that waits."""

    waiting_operations: int
    """Of all calls together."""

    @property
    def pulse(self) -> asyncio.Event:
        """Set at the next change of the topology or of a connection; then there is another one."""
        ...


class Patience:
    """Of one call. ``until``: when to give up, on the clock of ``time.monotonic``."""

    def __init__(self, surroundings: Surroundings, until: float) -> None:
        self._surroundings = surroundings
        self._until = until
        self.attempt = 0
        """How often it has been tried again."""

    def __repr__(self) -> str:
        return f"<Patience for {self._until - monotonic():.3f} s, attempt {self.attempt}>"

    def backoff(self, first: float = FIRST_BACKOFF) -> float:
        """Seconds to wait for something that nobody tells of. Grows with the attempts."""
        return backoff(self.attempt, first)

    async def wait(self, pulse: asyncio.Event, delay: float, operations: int = 1) -> bool:
        """Waits for the pulse, at most ``delay`` seconds. False when the time is up.

        Raises RouterOverloaded when too many operations wait already.
        """
        left = self._until - monotonic()
        if left <= 0:
            return False
        surroundings = self._surroundings
        if surroundings.waiting_operations + operations > MAX_WAITING:
            raise RouterOverloaded(retry_after=OVERLOAD_RETRY_SECONDS)
        surroundings.waiting_operations += operations
        try:
            async with asyncio.timeout(min(left, delay)):
                await pulse.wait()
        except TimeoutError:
            pass
        finally:
            surroundings.waiting_operations -= operations
        if monotonic() >= self._until:
            return False
        self.attempt += 1
        return True
