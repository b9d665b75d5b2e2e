"""What both clients need to watch counts: which of them are news, and when to connect anew. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from grpc import StatusCode

from likering.client.calls import count_of, refuse
from likering.client.model import LikeCount
from likering.client.retry import RetryPolicy, is_transient
from likering.errors import LikeringError, ShardUnavailable
from likering.v1 import like_service_pb2 as pb
from likering.validation import watch_violations

SILENCE: Final = 45.0
"""Seconds after which a stream that says nothing is given up; the service says each 15 s that it stands."""


@dataclass(frozen=True, slots=True)
class Watch:
    """WatchLikeCounts. Raises InvalidArgument when the server would surely refuse it."""

    post_ids: Sequence[str]
    method: ClassVar[str] = "WatchLikeCounts"

    def __post_init__(self) -> None:
        refuse(watch_violations(self.post_ids))

    def request(self) -> pb.WatchLikeCountsRequest:
        return pb.WatchLikeCountsRequest(post_ids=self.post_ids)


class News:
    """Over all streams of one watch: no version goes back, none comes twice."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def of(self, response: pb.WatchLikeCountsResponse) -> Iterator[LikeCount]:
        """Those of the counts that are newer than what there was."""
        for count in response.like_counts:
            if count.version > self._versions.get(count.post_id, -1):
                self._versions[count.post_id] = count.version
                yield count_of(count)


class Reconnects:
    """When a watch connects anew: for ever once the service has answered it, before that only for a while."""

    def __init__(
        self, policy: RetryPolicy, random: Callable[[], float], now: Callable[[], float], patience: float
    ) -> None:
        """``random`` gives numbers from 0 up to 1. ``now`` in seconds, as ``patience``, which begins now."""
        self._policy = policy
        self._random = random
        self._now = now
        self._until: float | None = now() + patience
        self._backoff = policy.initial_backoff

    def answered(self) -> None:
        """The service has answered."""
        self._until = None
        self._backoff = self._policy.initial_backoff

    def delay_after(self, error: LikeringError) -> float | None:
        """Seconds to wait before connecting anew; None: the watch ends with this error."""
        # What lasted too long is no failure: then the stream was to be opened anew anyway.
        if not is_transient(error) and error.code is not StatusCode.DEADLINE_EXCEEDED:
            return None
        if self._policy.tokens == 0:
            return None
        backoff = self._backoff
        self._backoff = min(self._policy.max_backoff, backoff * self._policy.multiplier)
        delay = (error.retry_after or 0.0) + backoff * (0.5 + 0.5 * self._random())
        if self._until is not None and self._now() + delay >= self._until:
            return None
        return delay


def ended() -> LikeringError:
    """A server that ends a stream says no more; callers are to connect anew."""
    return ShardUnavailable("The service ended the stream")
