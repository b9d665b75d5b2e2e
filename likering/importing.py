"""What a like that is brought in from elsewhere may be. Shared by the command that reads files and the router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from likering import validation
from likering.errors import FieldViolation

MAX_LIKES: Final = 5000
"""Likes of one ImportLikes."""


def import_violations(likes: int, posts: int, times: int) -> validation.Violations:
    """The columns of an ImportLikes, by their lengths."""
    if not likes:
        return [FieldViolation("user_ids", "BATCH_EMPTY", "at least one item is needed")]
    if likes > MAX_LIKES:
        return [
            FieldViolation(
                "user_ids", "BATCH_TOO_LARGE", f"at most {MAX_LIKES} items are allowed, these are {likes}"
            )
        ]
    if posts != likes or times not in (0, likes):
        field = "post_ids" if posts != likes else "like_times"
        return [FieldViolation(field, "MESSAGE_MALFORMED", "the columns of an import have the same length")]
    return ()


def faults(
    user_ids: Sequence[str], post_ids: Sequence[str], like_times: Sequence[int], now: int
) -> dict[int, FieldViolation]:
    """Position → what is wrong with the like there. Times in µs since 1970, 0 for none; empty for none at all."""
    latest = now + validation.MAX_INTENT_AHEAD
    if (
        validation.valid_ids(user_ids)
        and validation.valid_ids(post_ids)
        and (not like_times or (min(like_times) >= 0 and max(like_times) <= latest))
    ):
        return {}
    times = like_times or [0] * len(post_ids)
    found: dict[int, FieldViolation] = {}
    for position, (user_id, post_id, time) in enumerate(zip(user_ids, post_ids, times, strict=True)):
        if fault := _fault(user_id, post_id, time, latest):
            found[position] = fault
    return found


def _fault(user_id: str, post_id: str, time: int, latest: int) -> FieldViolation | None:
    for violation in validation.edge_violations(user_id, post_id):
        return violation
    if time < 0:
        return FieldViolation("like_time", "LIKE_TIME_INVALID", "the time of a like is after 1970")
    if time > latest:
        return FieldViolation(
            "like_time", "LIKE_TIME_INVALID", "the time of a like is at most 60 s ahead of the server"
        )
    return None
