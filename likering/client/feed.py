"""The change feed as clients see it: events, batches with their cursor, and how a broken stream is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from likering.client.calls import exactness_of, refuse
from likering.client.memory import MemoryLikes
from likering.client.memory_feed import SLOTS
from likering.client.model import EPOCH, EventKind, Exactness, LikeCount
from likering.client.retry import RetryPolicy, is_transient
from likering.errors import InternalError, LikeringError
from likering.v1 import like_service_pb2 as pb
from likering.validation import MAX_BATCH, events_violations

FEED_PATIENCE: Final = 60.0
"""Seconds for which a feed tries to reach the service again before it gives up."""

PROGRESS_INTERVAL: Final = 5.0
"""Seconds after which the service in memory says where a consumer stands, even if nothing has changed."""


_OF_NO_POST: Final = LikeCount("", 0, 0, Exactness.EXACT, EPOCH)
_KINDS: Final = {int(kind): kind for kind in EventKind}


class LikeEvent(NamedTuple):
    """A change of an edge (user, post), as the edge is by now; or, see ``kind``, that edges were erased."""

    user_id: str
    """Empty when a post was purged."""
    post_id: str
    """Empty when a user was purged."""
    liked: bool
    first_like: bool
    """The edge had never been liked before the cursor of the batch before. Comes exactly once per edge for whoever goes
    on from cursor to cursor; with ``liked`` False if the like was taken back meanwhile. An edge whose unlike is
    remembered no longer is a new one when it is liked again."""
    like_time: datetime
    """Since when the edge is so; of a purge: when it was done in this slot."""
    like_count: LikeCount
    """The likes of the post by now; this change is in it, and later ones may be. Of no post when a user was purged."""
    kind: EventKind = EventKind.EDGE
    """What has happened: whoever keeps what events tell looks here first."""
    slot: int = 0
    """The slot of the post; when a user was purged, that of the posts which it is about."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Some events, and the cursor after them: store it together with what they have led to. May be empty."""

    events: tuple[LikeEvent, ...]
    cursor: str
    slot_count: int
    """How many slots the cluster has, numbered from 0: for consumers that divide them among themselves."""

    def __iter__(self) -> Iterator[LikeEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


@dataclass(frozen=True, slots=True)
class StreamLikeEvents:
    """What a consumer wants, but for where it stands."""

    slots: Sequence[int]
    from_now: bool
    max_batch: int

    def request(self, cursor: str) -> pb.StreamLikeEventsRequest:
        """Raises InvalidArgument when the server would surely refuse it."""
        refuse(events_violations(self.max_batch))
        return pb.StreamLikeEventsRequest(
            cursor=cursor,
            slots=self.slots,
            from_now=self.from_now,
            max_batch=min(self.max_batch, MAX_BATCH),
        )

    def parse(self, response: pb.StreamLikeEventsResponse) -> EventBatch:
        # A consumer that catches up lives here: so each thing is looked at once, and counts of one moment share it.
        events: list[LikeEvent] = []
        moment, as_of_time = (0, 0), EPOCH
        for event in response.events:
            count, since, kind = event.like_count, event.like_time, event.kind
            as_of = count.as_of_time
            if (as_of.seconds, as_of.nanos) != moment:
                moment = as_of.seconds, as_of.nanos
                as_of_time = EPOCH + timedelta(0, as_of.seconds, as_of.nanos // 1000)
            events.append(
                LikeEvent(
                    event.user_id,
                    event.post_id,
                    event.liked,
                    event.first_like,
                    EPOCH + timedelta(0, since.seconds, since.nanos // 1000),
                    LikeCount(
                        count.post_id, count.count, count.version, exactness_of(count.exactness), as_of_time
                    )
                    if event.post_id
                    else _OF_NO_POST,
                    EventKind.EDGE if kind <= EventKind.EDGE else _kind_of(kind),
                    event.slot,
                )
            )
        return EventBatch(tuple(events), response.cursor, response.slot_count)


def _kind_of(kind: int) -> EventKind:
    """Raises InternalError: whoever passed over a kind that only a newer server knows could miss an end."""
    known = _KINDS.get(kind)
    if known is None:
        raise InternalError(f"The service told of an event of a kind that is not known: {kind}")
    return known


class Resumption:
    """Where a stream that breaks is gone on with, and when. Pure: whoever calls does the waiting."""

    def __init__(self, cursor: str, policy: RetryPolicy, random: Callable[[], float], now: float) -> None:
        """``random`` gives numbers from 0 up to 1; ``now`` is on any clock of seconds that never goes back."""
        self.cursor = cursor
        self._policy = policy
        self._random = random
        self._backoff = policy.initial_backoff
        self._failing_since: float | None = now
        """None since the last batch: however long the consumer was busy with it, nothing has failed meanwhile."""

    def __repr__(self) -> str:
        return f"<Resumption from {self.cursor[:8] or 'the beginning'}…>"

    def received(self, batch: EventBatch, now: float) -> None:
        """A batch has come."""
        self.cursor = batch.cursor
        self._backoff = self._policy.initial_backoff
        self._failing_since = None

    def delay_after(self, error: LikeringError, now: float) -> float | None:
        """Seconds to wait before the stream is begun again, or None to give up."""
        backoff = self._backoff
        self._backoff = min(self._policy.max_backoff, backoff * self._policy.multiplier)
        if self._failing_since is None:
            self._failing_since = now
        if not is_transient(error) or now - self._failing_since > FEED_PATIENCE or not self._policy.tokens:
            return None
        return (error.retry_after or 0.0) + backoff * (0.5 + 0.5 * self._random())


class MemoryFeed:
    """A consumer of the service in memory. Raises InvalidArgument when it begins."""

    def __init__(self, memory: MemoryLikes, wanted: StreamLikeEvents, cursor: str) -> None:
        self._memory = memory
        self._wanted = wanted
        self._positions = memory.begin_events(cursor, wanted.slots, wanted.from_now, wanted.max_batch)
        self.batch = EventBatch((), memory.cursor(self._positions), SLOTS)
        """The newest batch."""
        self._begun = False

    def due(self) -> bool:
        """Moves on to the next batch. Whether it is one to be told of at once: it has events, or is the first."""
        if not self._begun:
            self._begun = True
            return True
        events, cursor = self._memory.next_events(self._positions, self._wanted.max_batch)
        self.batch = EventBatch(tuple(map(LikeEvent._make, events)), cursor, SLOTS)
        return bool(events)
