"""Where what is known of purges stands in the primary key of posts: behind all ids, and in its order."""

from __future__ import annotations

from shard_node.packed_ids import pack, unpack
from shard_node.purge_keys import (
    KIND_AT,
    PLACES,
    mark_key,
    post_place_key,
    user_mark_key,
    user_place_key,
)

HIGHEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""The id behind all others, as they are packed."""
LAST = 2**63 - 1


def test_places_are_behind_all_ids_and_all_marks_in_the_order_of_their_revisions() -> None:
    marks = [pack(HIGHEST), mark_key(HIGHEST), user_mark_key(HIGHEST)]
    places = [
        post_place_key(7, HIGHEST),
        user_place_key(70, ""),
        post_place_key(1_790_000_000_000_000, "p"),
        user_place_key(LAST, "u"),
    ]
    keys = [*marks, PLACES, *places]
    assert keys == sorted(keys)


def test_a_place_says_what_was_purged() -> None:
    for key, kind, name in (
        (post_place_key(7, "a"), b"p", "a"),
        (user_place_key(LAST, HIGHEST), b"u", HIGHEST),
    ):
        assert (key[KIND_AT - 1 : KIND_AT], unpack(key[KIND_AT:])) == (kind, name)
