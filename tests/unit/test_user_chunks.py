"""What a user likes in chunks: whatever is told, and when, the newest of each edge is there, in order, once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_node.user_chunks import (
    FEW,
    FULL,
    LATEST_REV,
    Entry,
    count,
    decode,
    encode,
    fold,
    place,
    searches,
)
from tests.parts.tellings import BEGIN as NOW
from tests.parts.tellings import Tellings

_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=32)
_IDS = st.one_of(_TEXTS, st.integers(0, 2**70).map(str), st.uuids().map(str), st.just("x" * 128))
_ENTRIES = st.builds(
    Entry,
    post_id=_IDS,
    rev=st.integers(0, LATEST_REV),
    liked=st.booleans(),
    like_time=st.integers(0, 2**63 - 1),
)


def needed(chunks: Mapping[bytes, bytes], told: Iterable[tuple[Entry, bool]]) -> dict[bytes, bytes]:
    """Those chunks of a user that read_user_chunks finds, and no others."""
    found: set[bytes] = set()
    for one in searches(told):
        found.update(sorted(since for since in chunks if since <= one.place)[-1:])
        found.update(since for since, chunk in chunks.items() if since >= one.behind and one.key in chunk)
    return {since: chunks[since] for since in found}


def apply(
    chunks: dict[bytes, bytes], told: Sequence[tuple[Entry, bool]], oldest: int = 0
) -> dict[bytes, bytes]:
    """The user's chunks afterwards."""
    newest: dict[str, tuple[Entry, bool]] = {}
    for entry, first in told:
        known = newest.get(entry.post_id)
        if known is None or known[0].rev < entry.rev:
            newest[entry.post_id] = entry, first
    changed = fold(needed(chunks, newest.values()), [entry for entry, _ in newest.values()], oldest)
    return {since: chunk for since, chunk in {**chunks, **changed}.items() if chunk}


def entries_of(chunks: Mapping[bytes, bytes]) -> list[Entry]:
    """All of the user's, oldest first; each stands in the chunk that holds its place."""
    entries: list[Entry] = []
    sinces = sorted(chunks)
    for since, end in zip(sinces, [*sinces, b"\xff"][1:], strict=True):
        chunk = list(decode(chunks[since]))[::-1]
        assert chunk
        assert len(chunks[since]) <= FULL
        assert count(chunks[since]) == len(chunk)
        assert all(since <= place(entry.like_time, entry.post_id) < end for entry in chunk)
        entries += chunk
    assert entries == sorted(entries, key=lambda entry: place(entry.like_time, entry.post_id))
    return entries


@given(st.lists(_ENTRIES, max_size=20))
def test_entries_come_back_as_they_were(entries: list[Entry]) -> None:
    assert list(decode(b"".join(map(encode, entries)))) == entries


@given(st.lists(_ENTRIES, min_size=2, max_size=2))
def test_places_have_the_order_of_times_and_then_of_ids_as_bytes(two: list[Entry]) -> None:
    one, other = two
    assert (place(one.like_time, one.post_id) < place(other.like_time, other.post_id)) == (
        (one.like_time, one.post_id.encode()) < (other.like_time, other.post_id.encode())
    )
    assert (one.order < other.order) == (
        place(one.like_time, one.post_id) < place(other.like_time, other.post_id)
    )


@given(st.integers(0), st.lists(_IDS, min_size=1, max_size=60, unique=True), st.integers(1, 400))
def test_the_newest_of_each_edge_stands_whatever_is_told_when(
    seed: int, posts: list[str], changes: int
) -> None:
    """Late, twice, or never; firsts, imports, unlikes and likes again; and from the fewest chunks that are read."""
    tellings = Tellings(seed, posts, changes)
    chunks: dict[bytes, bytes] = {}
    for batch in tellings.batches:
        chunks = apply(chunks, batch)
    entries = entries_of(chunks)
    assert {entry.post_id: entry for entry in entries} == tellings.newest()
    assert len(entries) == len(tellings.newest())
    assert all(apply(chunks, batch) == chunks for batch in tellings.batches)


def test_likes_in_the_order_of_time_fill_their_chunks() -> None:
    """Also such as come in batches; each chunk begins at a time, without an id."""
    chunks: dict[bytes, bytes] = {}
    likes = [(Entry(str(7 * 10**18 + n), NOW + n, True, NOW + n), True) for n in range(1000)]
    for start in range(0, 1000, 7):
        chunks = apply(chunks, likes[start : start + 7])
    assert [entry.rev for entry in entries_of(chunks)] == [NOW + n for n in range(1000)]
    size = len(encode(likes[0][0]))
    *full, last = [count(chunks[since]) for since in sorted(chunks)]
    assert set(full) == {FULL // size}
    assert sum(full) + last == 1000
    assert sorted(map(len, chunks)) == [0] + [8] * len(full)


def test_a_new_like_needs_nothing_but_the_newest_chunk() -> None:
    """However many there are; nor is that one decoded, which shows by what may stand behind its first entry."""
    newest = encode(Entry("p", NOW, True, NOW)) + b"no entries"
    changed = fold({place(NOW, ""): newest}, [Entry("q", NOW + 1, True, NOW + 1)], 0)
    assert changed == {place(NOW, ""): encode(Entry("q", NOW + 1, True, NOW + 1)) + newest}


def test_what_a_batch_searches_does_not_grow_with_its_size_times_the_users() -> None:
    """First likes look behind their revisions, also those that are brought in with old times; a few changes look
    everywhere, each for itself, and more of them go over everything once."""
    likes = [(Entry(f"p{n}", NOW + n, True, NOW + n), True) for n in range(500)]
    imports = [(Entry(f"p{n}", NOW + n, True, n), True) for n in range(500)]
    for told in (likes, imports):
        for entry, first in told:
            for one in searches([(entry, first)]):
                assert one.behind >= place(entry.rev, "")
    assert len(searches(likes)) == 500
    assert len(searches(imports)) == 1000
    unlikes = [(Entry(f"p{n}", NOW + n, False, NOW + n), False) for n in range(500)]
    assert [one.behind for one in searches(unlikes[:FEW])] == [b""] * FEW
    (everything,) = searches(unlikes + imports)
    assert everything.key == everything.behind == b""


def test_likes_of_one_time_are_told_apart_by_their_posts() -> None:
    """As imports have them: chunks can begin in the midst of them."""
    entries = [Entry(f"post-{n:04}", NOW + n, True, 5) for n in range(300)]
    random.Random(1).shuffle(entries)
    chunks: dict[bytes, bytes] = {}
    for entry in entries:
        chunks = apply(chunks, [(entry, True)])
    assert [entry.post_id for entry in entries_of(chunks)] == [f"post-{n:04}" for n in range(300)]
    assert len(chunks) < 2 * sum(map(len, chunks.values())) / FULL + 1


def test_an_edge_that_is_liked_first_again_is_there_once() -> None:
    """Its unlike was swept where the post is. Here it may stand in another chunk until the edge is told anew."""
    likes = [(Entry(f"p{n:03}", NOW + n, True, NOW + n), True) for n in range(200)]
    chunks = apply(apply({}, likes), [(Entry("p000", NOW + 200, False, NOW + 200), False)])
    chunks = apply(
        chunks, [(Entry(f"q{n:03}", NOW + 300 + n, True, NOW + 300 + n), True) for n in range(200)]
    )
    again = Entry("p000", NOW + 600, True, NOW + 600)
    chunks = apply(chunks, [(again, True)])
    assert [one for one in entries_of(chunks) if one.liked and one.post_id == "p000"] == [again]
    end = Entry("p000", NOW + 700, False, NOW + 700)
    assert [one for one in entries_of(apply(chunks, [(end, False)])) if one.post_id == "p000"] == [end]


def test_a_chunk_that_has_a_post_twice_has_it_once_afterwards() -> None:
    """Whatever has brought that about."""
    twice = [Entry("p", NOW + n, n == 2, NOW + n) for n in (2, 0)]
    between = Entry("q", NOW + 1, True, NOW + 1)
    chunk = encode(twice[0]) + encode(between) + encode(twice[1])
    end = Entry("p", NOW + 3, False, NOW + 3)
    assert entries_of(apply({b"": chunk}, [(end, False)])) == [between, end]


def test_old_unlikes_make_room_when_a_chunk_is_full() -> None:
    """Not likes, and not unlikes that an older like could still come after."""
    chunks: dict[bytes, bytes] = {}
    for n in range(1000):
        chunks = apply(chunks, [(Entry(f"p{n}", NOW + n, n % 10 == 0, NOW + n), False)], NOW + n - 20)
    entries = entries_of(chunks)
    assert [entry.rev - NOW for entry in entries if entry.liked] == list(range(0, 1000, 10))
    assert {NOW + n for n in range(980, 1000)} <= {entry.rev for entry in entries}
    assert sum(map(len, chunks.values())) < 3 * FULL


def test_a_chunk_that_has_nothing_left_goes() -> None:
    """And its places are held by the one before it, or, if it was the first, by a new one."""
    likes = [(Entry(f"p{n:03}", NOW + n, True, NOW + n), True) for n in range(200)]
    chunks = apply({}, likes)
    first, second, *_ = sorted(chunks)
    for gone in (first, second):
        again = [
            (Entry(entry.post_id, entry.rev + 1000, False, entry.rev + 1000), False)
            for entry in decode(chunks[gone])
        ]
        left = apply(chunks, again)
        assert gone not in left
        assert len(entries_of(left)) == 200
        late = Entry("late", NOW + 5, True, NOW + 5)
        assert late in entries_of(apply(left, [(late, False)]))


@pytest.mark.parametrize("rev", [LATEST_REV + 1, -1])
def test_a_revision_that_has_no_room_is_no_entry(rev: int) -> None:
    with pytest.raises(OverflowError):
        encode(Entry("p", rev, True, rev))
