"""What callers hand in and get back: actions, mutations, and the dataclasses of results. No I/O, no protobuf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from operator import index
from typing import TypeAlias

from likering.errors import LikeringError
from likering.validation import INTENT_INVALID, LAST_MICROSECOND

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

IntentTime: TypeAlias = datetime | int
"""When the user meant it: a datetime with a time zone, or µs since 1970."""


class Consistency(IntEnum):
    """How fresh an answer must be. The numbers are those of likering.v1.Consistency."""

    CACHED = 1
    """From the owner's cache: sees every write that was acknowledged before the read began. The default."""
    STRONG = 2
    """From the owner's database; the owner has proved since that it still is the owner."""
    STALE_OK = 3
    """May be served by somebody else while the owner is gone, and is then marked ``Exactness.STALE``."""


class Exactness(IntEnum):
    """Where an answer comes from. The numbers are those of likering.v1.Exactness."""

    EXACT = 1
    CACHED = 2
    STALE = 3


class Action(IntEnum):
    """What a mutation wants. The numbers are those of likering.v1.LikeMutation.Action."""

    LIKE = 1
    UNLIKE = 2


class Outcome(IntEnum):
    """What a mutation did. The numbers are those of likering.v1.MutationOutcome."""

    CHANGED = 1
    """The edge changed, and with it count and version of the post."""
    UNCHANGED = 2
    """The edge was so already."""
    SUPERSEDED = 3
    """A newer intent of the same edge stands; this one had no effect."""


class EventKind(IntEnum):
    """What an event of the change feed tells of. The numbers are those of likering.v1.LikeEvent.Kind."""

    EDGE = 1
    """The edge of user and post has changed."""
    POST_PURGED = 2
    """The post was purged: what earlier events told of its edges is void, nobody of those users likes it. No user."""
    USER_PURGED = 3
    """The user was purged: what earlier events told of this user's edges with posts of the event's slot is void. No
    post. Comes in each slot where the user had edges; of posts of other slots it says nothing."""


@dataclass(frozen=True, slots=True)
class LikeCount:
    """The likes of one post at one moment. ``version`` grows by exactly 1 with each change that took effect."""

    post_id: str
    count: int
    version: int
    exactness: Exactness
    as_of_time: datetime
    """When the owner knew this value to be current. ``STALE``: a time up to which it has every change."""


@dataclass(frozen=True, slots=True)
class LikeState:
    """Whether one user likes one post, and if so since when."""

    liked: bool
    like_time: datetime | None
    exactness: Exactness
    """``EXACT``, or ``STALE`` when a replica has answered."""
    as_of_time: datetime
    """When the owner knew this to be so. ``STALE``: a time up to which it has every change."""


@dataclass(frozen=True, slots=True)
class LikeSummary:
    """One post of a page: its count, and what its viewer sees. Without a viewer: False, None and None."""

    like_count: LikeCount
    viewer_has_liked: bool
    viewer_exactness: Exactness | None = None
    """Of ``viewer_has_liked``, as in LikeState: a replica may have answered that, and the owner's cache the count."""
    viewer_as_of_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class LikeSummaries:
    """A page of posts in the order asked for, without those in ``unreachable``, whose shard did not answer."""

    summaries: tuple[LikeSummary, ...]
    unreachable: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[LikeSummary]:
        return iter(self.summaries)

    def __len__(self) -> int:
        return len(self.summaries)

    def __getitem__(self, index: int) -> LikeSummary:
        return self.summaries[index]


@dataclass(frozen=True, slots=True)
class Liker:
    """One like of a post: whose, and since when."""

    user_id: str
    like_time: datetime


@dataclass(frozen=True, slots=True)
class LikersPage:
    """Some of the likes of a post, newest first, and how many there are in all."""

    likes: tuple[Liker, ...]
    next_page_token: str
    """For the next page; empty when this is the last one."""
    total: LikeCount

    def __iter__(self) -> Iterator[Liker]:
        return iter(self.likes)

    def __len__(self) -> int:
        return len(self.likes)


@dataclass(frozen=True, slots=True)
class LikedPost:
    """One like of a user: of what, and since when."""

    post_id: str
    like_time: datetime


@dataclass(frozen=True, slots=True)
class LikedPostsPage:
    """Some of the likes of a user, newest first."""

    likes: tuple[LikedPost, ...]
    next_page_token: str
    """For the next page; empty when this is the last one."""

    def __iter__(self) -> Iterator[LikedPost]:
        return iter(self.likes)

    def __len__(self) -> int:
        return len(self.likes)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change that a caller wants. Without ``intent_time`` the client stamps it with the present moment."""

    user_id: str
    post_id: str
    action: Action = Action.LIKE
    intent_time: IntentTime | None = None

    @classmethod
    def like(cls, user_id: str, post_id: str, *, intent_time: IntentTime | None = None) -> Mutation:
        return cls(user_id, post_id, Action.LIKE, intent_time)

    @classmethod
    def unlike(cls, user_id: str, post_id: str, *, intent_time: IntentTime | None = None) -> Mutation:
        return cls(user_id, post_id, Action.UNLIKE, intent_time)


@dataclass(frozen=True, slots=True)
class MutationResult:
    """What became of one mutation: either ``error``, or an outcome and the count right after this very mutation."""

    outcome: Outcome | None = None
    like_count: LikeCount | None = None
    error: LikeringError | None = None

    @property
    def changed(self) -> bool:
        """Whether the edge changed. False also for an error."""
        return self.outcome is Outcome.CHANGED

    def raise_for_error(self) -> MutationResult:
        """This result, or its error raised."""
        if self.error is not None:
            raise self.error
        return self


def time_of(micros: int) -> datetime:
    """The moment ``micros`` µs after 1970, exactly."""
    return EPOCH + timedelta(microseconds=micros)


def micros_of(intent_time: IntentTime) -> int:
    """An intent time in µs since 1970, or ``INTENT_INVALID`` for a moment that no intent can have.

    A datetime without a time zone is a ValueError: nobody can say which moment it means.
    """
    if isinstance(intent_time, datetime):
        if intent_time.tzinfo is None:
            raise ValueError(f"an intent time needs a time zone, {intent_time!r} has none")
        micros = (intent_time - EPOCH) // _MICROSECOND
    else:
        micros = index(intent_time)  # a float is a TypeError: it has no room for today's microseconds
    return micros if 0 < micros <= LAST_MICROSECOND else INTENT_INVALID
