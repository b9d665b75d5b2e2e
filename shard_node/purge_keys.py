"""The keys of those rows of ``posts`` that are no posts: what is known of purges stands behind all ids.

It is found there, by the primary key, without an index of its own, which every like would have to keep, and goes
wherever the slot goes. In this order: marks of posts; marks and receipts of users; and the *places* of purges that were
done, by revision: what the change feed reads. A place stays for good, as a consumer may be as far behind as it likes.
"""

from __future__ import annotations

from typing import Final

from shard_node.packed_ids import pack

ABOVE_ALL: Final = b"\xff" * 17
"""Behind every packed id, byte by byte."""
PLACES: Final = ABOVE_ALL * 3
"""Behind every mark; before every place."""
_REV_BYTES: Final = 8
KIND_AT: Final = len(PLACES) + _REV_BYTES + 1
"""Where in a place's key its kind stands, as SQL counts, from 1: p for a post, u for a user. What follows is the id."""


def mark_key(post_id: str) -> bytes:
    """The post_id of the row that says that a purge of the post is under way: no post can have it."""
    return ABOVE_ALL + pack(post_id)


def user_mark_key(user_id: str) -> bytes:
    """The post_id of the row that marks a slot for the purge of a user: no post, and no post's mark, can have it."""
    return ABOVE_ALL + ABOVE_ALL + pack(user_id)


def post_place_key(rev: int, post_id: str) -> bytes:
    """The post_id of the row that says that a purge of the post was done at that revision."""
    return PLACES + rev.to_bytes(_REV_BYTES) + b"p" + pack(post_id)


def user_place_key(rev: int, user_id: str) -> bytes:
    """The post_id of the row that says that a purge of the user was done, in this slot, at that revision."""
    return PLACES + rev.to_bytes(_REV_BYTES) + b"u" + pack(user_id)
