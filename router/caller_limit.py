"""Bounds what one caller takes of a router: so many operations a second, whoever it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from likering.errors import CallerRateLimited

_BURST_SECONDS: Final = 2.0
"""How much of its rate a caller may save up."""
_MOST_REMEMBERED: Final = 10_000
_ROUNDING: Final = 0.001
"""Of an operation: what sums of seconds may be out by."""

_OPERATIONS: Final[Mapping[str, Callable[[Any], int]]] = {
    "MutateLikesRequest": lambda request: len(request.mutations),
    "GetLikeSummariesRequest": lambda request: len(request.post_ids),
    "FilterLikersRequest": lambda request: len(request.user_ids),
    "WatchLikeCountsRequest": lambda request: len(request.post_ids),
}
"""Of the calls that are several: a limit on calls alone would be as wide as the largest batch."""


class CallerLimit:
    """A bucket of operations for each caller. Lives on one event loop.

    A call is let in while there is one operation in its caller's bucket, and may take out more than there are: what was
    too much is waited off before the next one. So no batch is too large for the limit.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When each caller's bucket is full again: all that has to be known of it. The longest unused one is first."""

    def __repr__(self) -> str:
        return f"<CallerLimit {self._per_second:g}/s, {len(self._full_at)} callers>"

    def admit(self, caller: str, request: Any) -> None:
        """Takes a call's operations out of its caller's bucket. Raises CallerRateLimited when that is empty."""
        now = self._clock()
        full_at = max(now, self._full_at.get(caller, now))
        too_much = (full_at - now) * self._per_second - (self._capacity - 1)
        if too_much > _ROUNDING:
            raise CallerRateLimited(
                metadata={"operations_per_second": f"{self._per_second:g}"},
                retry_after=too_much / self._per_second,
            )
        count = _OPERATIONS.get(type(request).__name__)
        operations = max(1, count(request)) if count is not None else 1
        self._full_at[caller] = full_at + operations / self._per_second
        self._full_at.move_to_end(caller)
        if len(self._full_at) > _MOST_REMEMBERED:
            self._full_at.popitem(last=False)
