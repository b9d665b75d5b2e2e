"""What a request may contain: ids, batch sizes, enums, intent times, versions. Shared by the clients and the router.

Each ``…_violations`` function returns the violations of one kind of request, with the paths of the request's fields,
and the empty tuple when there is none; ``InvalidArgument.of(violations)`` is the error to raise. They run for every
operation on the router's hot path, so each tries the cheap question (is it all right?) before it builds an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from likering.errors import FieldViolation

MAX_ID_BYTES: Final = 128
MAX_MUTATIONS: Final = 1000
"""Mutations of one MutateLikes."""
MAX_POSTS: Final = 200
"""Posts of one GetLikeSummaries or WatchLikeCounts."""
MAX_USERS: Final = 1000
"""Users of one FilterLikers."""
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 1000
"""Entries of one page of a list."""
DEFAULT_BATCH: Final = 1000
MAX_BATCH: Final = 2000
"""Events of one response of StreamLikeEvents."""
MAX_INTENT_AHEAD: Final = 60_000_000
"""How far an intent may be ahead of the server's clock, in µs."""
INTENT_INVALID: Final = -1
"""What ``intent_micros`` gives for a time that cannot be an intent."""

ACTIONS: Final = (1, 2)
"""Known values of LikeMutation.Action, without UNSPECIFIED."""
CONSISTENCIES: Final = (0, 1, 2, 3)
"""Known values of Consistency."""

Violations: TypeAlias = Sequence[FieldViolation]

_NONE: Final[tuple[FieldViolation, ...]] = ()
_LAST_SECOND: Final = 253_402_300_799
"""23:59:59 on 31 December 9999, the last second of a Timestamp."""
LAST_MICROSECOND: Final = _LAST_SECOND * 1_000_000 + 999_999
"""The last moment that an intent can have, in µs since 1970."""


def valid_id(value: str) -> bool:
    """Whether ``value`` is 1 to 128 bytes of UTF-8 without NUL. A TypeError if it is no string."""
    if str.isascii(value):
        return 0 < len(value) <= MAX_ID_BYTES and "\0" not in value
    return _valid_beyond_ascii(value)


def valid_ids(values: Sequence[str]) -> bool:
    """Whether all values are valid ids: several times cheaper per id than asking one by one."""
    joined = "".join(values)
    if (
        joined.isascii()
        and "\0" not in joined
        and all(values)
        and max(map(len, values), default=0) <= MAX_ID_BYTES
    ):
        return True
    return all(map(valid_id, values))


def intent_micros(time: Timestamp) -> int:
    """An intent time in µs since 1970, rounded down; ``INTENT_INVALID`` if it is not a time after 1970."""
    seconds, nanos = time.seconds, time.nanos
    if 0 <= seconds <= _LAST_SECOND and 0 <= nanos <= 999_999_999:
        return seconds * 1_000_000 + nanos // 1000 or INTENT_INVALID
    return INTENT_INVALID


def like_violations(user_id: str, post_id: str, intent: int, now: int) -> Violations:
    """Like and Unlike. ``intent`` in µs as ``intent_micros`` gives it, 0 for none; ``now`` in µs since 1970."""
    if valid_id(user_id) and valid_id(post_id) and 0 <= intent <= now + MAX_INTENT_AHEAD:
        return _NONE
    return [*_edge("", user_id, post_id), *_intent("", intent, now)]


def mutation_violations(
    index: int, user_id: str, post_id: str, action: int, intent: int, now: int
) -> Violations:
    """Item ``index`` of a MutateLikes; units as in ``like_violations``."""
    if (
        valid_id(user_id)
        and valid_id(post_id)
        and action in ACTIONS
        and 0 <= intent <= now + MAX_INTENT_AHEAD
    ):
        return _NONE
    path = f"mutations[{index}]."
    return [
        *_edge(path, user_id, post_id),
        *_enum(f"{path}action", action, ACTIONS),
        *_intent(path, intent, now),
    ]


def action_violations(action: int) -> Violations:
    """The action of a single mutation."""
    return _enum("action", action, ACTIONS)


def mutate_violations(mutation_count: int) -> Violations:
    """MutateLikes as a whole; its items fail one by one, see ``mutation_violations``."""
    return _size("mutations", mutation_count, MAX_MUTATIONS)


def has_liked_violations(user_id: str, post_id: str, consistency: int, min_version: int) -> Violations:
    """HasLiked."""
    if valid_id(user_id) and valid_id(post_id) and consistency in CONSISTENCIES and min_version >= 0:
        return _NONE
    return [*_edge("", user_id, post_id), *_freshness(consistency, min_version)]


def count_violations(post_id: str, consistency: int, min_version: int) -> Violations:
    """GetLikeCount."""
    if valid_id(post_id) and consistency in CONSISTENCIES and min_version >= 0:
        return _NONE
    return [*_id("post_id", post_id), *_freshness(consistency, min_version)]


def summaries_violations(post_ids: Sequence[str], viewer_user_id: str, consistency: int) -> Violations:
    """GetLikeSummaries. An empty viewer is nobody, and valid."""
    if (
        0 < len(post_ids) <= MAX_POSTS
        and valid_ids(post_ids)
        and (not viewer_user_id or valid_id(viewer_user_id))
        and consistency in CONSISTENCIES
    ):
        return _NONE
    return [
        *_ids("post_ids", post_ids, MAX_POSTS),
        *(_id("viewer_user_id", viewer_user_id) if viewer_user_id else _NONE),
        *_freshness(consistency, 0),
    ]


def filter_violations(
    post_id: str, user_ids: Sequence[str], consistency: int, min_version: int
) -> Violations:
    """FilterLikers."""
    if (
        valid_id(post_id)
        and 0 < len(user_ids) <= MAX_USERS
        and valid_ids(user_ids)
        and consistency in CONSISTENCIES
        and min_version >= 0
    ):
        return _NONE
    return [
        *_id("post_id", post_id),
        *_ids("user_ids", user_ids, MAX_USERS),
        *_freshness(consistency, min_version),
    ]


def list_violations(field: str, value: str, size: int) -> Violations:
    """A list over pages of what belongs to the id ``value`` in ``field``; its token is judged by ``paging``."""
    if valid_id(value) and size >= 0:
        return _NONE
    violations = [*_id(field, value)]
    if size < 0:
        violations.append(FieldViolation("page_size", "PAGE_SIZE_NEGATIVE", "a page has 0 or more entries"))
    return violations


def watch_violations(post_ids: Sequence[str]) -> Violations:
    """WatchLikeCounts."""
    if 0 < len(post_ids) <= MAX_POSTS and valid_ids(post_ids):
        return _NONE
    return _ids("post_ids", post_ids, MAX_POSTS)


def edge_violations(user_id: str, post_id: str) -> Violations:
    """The ids of one like."""
    if valid_id(user_id) and valid_id(post_id):
        return _NONE
    return _edge("", user_id, post_id)


def page_size(wanted: int) -> int:
    """The size of a page for which so many entries are wanted; 0: as many as the service likes."""
    return min(wanted or DEFAULT_PAGE, MAX_PAGE)


def events_violations(max_batch: int) -> Violations:
    """StreamLikeEvents, but for its cursor and slots, which ``cursors`` judges."""
    if max_batch >= 0:
        return _NONE
    return [FieldViolation("max_batch", "PAGE_SIZE_NEGATIVE", "a batch has 0 or more events")]


def batch_size(wanted: int) -> int:
    """The most events of one response when so many are wanted; 0: as many as the service likes."""
    return min(wanted or DEFAULT_BATCH, MAX_BATCH)


def _valid_beyond_ascii(value: str) -> bool:
    try:
        return len(value.encode()) <= MAX_ID_BYTES and "\0" not in value
    except UnicodeEncodeError:
        return False


def _id(field: str, value: str) -> Violations:
    if valid_id(value):
        return _NONE
    if not value:
        return [FieldViolation(field, "ID_EMPTY", "an id has at least one byte")]
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return [FieldViolation(field, "ID_NOT_PRINTABLE", "an id is valid UTF-8: no unpaired surrogate")]
    if size > MAX_ID_BYTES:
        return [
            FieldViolation(
                field, "ID_TOO_LONG", f"an id has at most {MAX_ID_BYTES} bytes of UTF-8, this one has {size}"
            )
        ]
    return [FieldViolation(field, "ID_NOT_PRINTABLE", "an id is valid UTF-8 without NUL")]


def _edge(path: str, user_id: str, post_id: str) -> Violations:
    return [*_id(f"{path}user_id", user_id), *_id(f"{path}post_id", post_id)]


def _ids(field: str, values: Sequence[str], limit: int) -> Violations:
    # A list that is too long is not looked into: the answer would be as long.
    if wrong_size := _size(field, len(values), limit):
        return wrong_size
    return [violation for index, value in enumerate(values) for violation in _id(f"{field}[{index}]", value)]


def _size(field: str, size: int, limit: int) -> Violations:
    if 0 < size <= limit:
        return _NONE
    if not size:
        return [FieldViolation(field, "BATCH_EMPTY", "at least one item is needed")]
    return [FieldViolation(field, "BATCH_TOO_LARGE", f"at most {limit} items are allowed, these are {size}")]


def _enum(field: str, value: int, known: Sequence[int]) -> Violations:
    if value in known:
        return _NONE
    return [
        FieldViolation(
            field, "ENUM_UNKNOWN", f"{value} is not one of {', '.join(str(number) for number in known)}"
        )
    ]


def _intent(path: str, intent: int, now: int) -> Violations:
    if intent < 0:
        return [FieldViolation(f"{path}intent_time", "INTENT_INVALID", "an intent is a time after 1970")]
    if intent > now + MAX_INTENT_AHEAD:
        ahead = (intent - now) / 1e6
        return [
            FieldViolation(
                f"{path}intent_time",
                "INTENT_IN_FUTURE",
                f"an intent is at most 60 s ahead of the server, this one is {ahead:.1f} s",
            )
        ]
    return _NONE


def _freshness(consistency: int, min_version: int) -> Violations:
    violations = [*_enum("consistency", consistency, CONSISTENCIES)]
    if min_version < 0:
        violations.append(FieldViolation("min_version", "VERSION_NEGATIVE", "a version is 0 or more"))
    return violations
