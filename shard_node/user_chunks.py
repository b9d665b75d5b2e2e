"""What a user likes as bytes, in chunks: encodes, decodes, and folds in what the owners of posts tell. Pure.

An *entry* is an edge as it was told last: a byte with the length of the packed post id, that id, seven bytes of
revision and flags and, only where it is not the revision, eight bytes of the like's time. An unlike is an entry too,
for an older like may be told again; it goes once it is old and its chunk is full.

A *chunk* has entries in the order of lists, newest first: by *place*, which is the like's time, then the post's id. It
holds all places from its ``since`` on, up to that of the user's next chunk.

So a new like, which is nearly always the user's newest, is put in front of the bytes of the newest chunk, and nothing
but the first entry of these is looked into. Whether a chunk can have a post is a search for its length and id; for more
than a few posts, all entries are gone over once.

There may be several entries of a post. Then all but the newest are unlikes: the edge was swept or purged since, so that
its next like was told as a first one. Nobody sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from shard_node.packed_ids import pack, unpack

FULL: Final = 960
"""Most bytes of a chunk: eight rows of that size fill a page of Postgres."""
LATEST_REV: Final = 2**54 - 1
"""The highest revision that an entry has room for: of the year 2540."""
UNLIKES_KEPT: Final = 7 * 86_400_000_000
"""µs. Whatever is told late, by an owner of before or again after a crash, comes within minutes."""
FEW: Final = 16
"""Changed edges of one user that are searched for one by one: so many cost what going over all entries does."""
_HEAD: Final = 7
_TIME: Final = 8
"""Sizes in bytes: of revision and flags, and of a time."""
_LIKED: Final = 1
_TIMED: Final = 2
"""Flags, the lowest bits of a head: it is a like; it has a time of its own."""


class Entry(NamedTuple):
    """An edge of a user. ``like_time``: since when it is so, in µs since 1970."""

    post_id: str
    rev: int
    liked: bool
    like_time: int

    @property
    def order(self) -> tuple[int, str]:
        """As ``place``, for comparisons: text compares as its UTF-8 does."""
        return self.like_time, self.post_id


class Search(NamedTuple):
    """Which chunks of a user a fold needs: the one that holds ``place``, and of those that begin at or after ``behind``
    the ones in which ``key`` is."""

    place: bytes
    key: bytes
    behind: bytes


_EVERYTHING: Final = Search(b"", b"", b"")
BEHIND_ALL: Final = b"\xff"
"""A place behind those of all times."""


def place(like_time: int, post_id: str) -> bytes:
    """Where such an entry stands among those of its user. Any time from 1970 on, any beginning of an id."""
    return like_time.to_bytes(_TIME) + post_id.encode()


def search_key(post_id: str) -> bytes:
    """What the bytes of a chunk contain if it has the post. They may contain it by chance, too."""
    packed = pack(post_id)
    return len(packed).to_bytes() + packed


def searches(told: Iterable[tuple[Entry, bool]]) -> Sequence[Search]:
    """What a fold of these edges of one user needs; each comes with whether it is the edge's first like.

    All of the user's chunks, if there are more than a few edges that must be searched for everywhere: so what a batch
    costs does not grow with its size times the user's.
    """
    wanted: list[Search] = []
    everywhere = 0
    for entry, first in told:
        at, key = place(entry.like_time, entry.post_id), search_key(entry.post_id)
        if not first:
            everywhere += 1
            wanted.append(Search(at, key, b""))
            continue
        # What is known of a first like already is itself or newer, and then of a time not before its revision.
        since = place(entry.rev, entry.post_id)
        wanted.append(Search(since, key, since))
        if at != since:  # it was brought in from elsewhere
            wanted.append(Search(at, key, BEHIND_ALL))
    return [_EVERYTHING] if everywhere > FEW else wanted


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return _encode(entry, search_key(entry.post_id))


def decode(chunk: bytes) -> Iterator[Entry]:
    """The entries of a chunk, newest first."""
    return (_entry(chunk, start) for start, _ in _bounds(chunk))


def count(chunk: bytes) -> int:
    """How many entries a chunk has."""
    return sum(1 for _ in _bounds(chunk))


def fold(chunks: Mapping[bytes, bytes], told: Iterable[Entry], oldest: int) -> dict[bytes, bytes]:
    """What becomes of a user's chunks (since → entries) by what is told: those that change; empty: to be deleted.

    ``chunks`` need not be all of the user's, but those of the ``searches``; ``told`` has one entry of an edge. Unlikes
    of revisions below ``oldest`` may go.
    """
    now = dict(chunks)
    new = {search_key(entry.post_id): entry for entry in told}
    _take_out(now, new)
    for key, entry in new.items():
        _insert(now, entry, _encode(entry, key), oldest)
    return {since: chunk for since, chunk in now.items() if chunks.get(since) != chunk}


def _take_out(chunks: dict[bytes, bytes], told: dict[bytes, Entry]) -> None:
    """Takes what is known of these edges out of the chunks; or an edge out of ``told``, if that is nothing new."""
    known: dict[bytes, list[tuple[int, int, bytes]]] = {}
    newest: dict[bytes, int] = {}
    for since, chunk in chunks.items():
        if len(told) <= FEW and not any(key in chunk for key in told):
            continue
        for start, end in _bounds(chunk):
            key = chunk[start : start + 1 + chunk[start]]
            if key in told:
                known.setdefault(since, []).append((start, end, key))
                newest[key] = max(_head(chunk, start) >> 2, newest.get(key, 0))
    for key, rev in newest.items():
        if rev >= told[key].rev:
            del told[key]
    for since, entries in known.items():
        chunk = chunks[since]
        for start, end, key in reversed(entries):  # from the back, so that the bounds stay right
            if key in told:
                chunk = chunk[:start] + chunk[end:]
        chunks[since] = chunk


def _insert(chunks: dict[bytes, bytes], new: Entry, data: bytes, oldest: int) -> None:
    at = place(new.like_time, new.post_id)
    # Where no chunk holds the place, one begins that holds all up to the next one.
    since = max([since for since in chunks if since <= at], default=b"")
    chunk = chunks.get(since, b"")
    if len(chunk) + len(data) > FULL:
        chunk = b"".join([chunk[start:end] for start, end in _bounds(chunk) if _stays(chunk, start, oldest)])
    before = _newer_than(chunk, new)
    whole = chunk[:before] + data + chunk[before:]
    if len(whole) <= FULL:
        chunks[since] = whole
        return
    # What is newer than all of a full chunk begins the next one: as long as likes come in order, all become full. What
    # comes in between cuts the chunk in half.
    cut = len(data) if not before else next(end for _, end in _bounds(whole) if end * 2 >= len(whole))
    *_, (last_of_newer, _) = _bounds(whole[:cut])
    chunks[since] = whole[cut:]
    chunks[_between(_entry(whole, cut), _entry(whole, last_of_newer))] = whole[:cut]


def _stays(chunk: bytes, start: int, oldest: int) -> bool:
    head = _head(chunk, start)
    return bool(head & _LIKED) or head >> 2 >= oldest


def _newer_than(chunk: bytes, new: Entry) -> int:
    """How many bytes of the chunk are of newer entries."""
    if not chunk or _time(chunk, 0) < new.like_time:
        return 0
    for start, _ in _bounds(chunk):
        if _entry(chunk, start).order < new.order:
            return start
    return len(chunk)


def _between(older: Entry, newer: Entry) -> bytes:
    """The shortest place that is behind the older entry, and not behind the newer one."""
    return place(newer.like_time, "" if older.like_time < newer.like_time else newer.post_id)


def _bounds(chunk: bytes) -> Iterator[tuple[int, int]]:
    """Where each entry begins and ends."""
    start, size = 0, len(chunk)
    while start < size:
        end = start + 1 + chunk[start] + _HEAD
        if chunk[end - 1] & _TIMED:
            end += _TIME
        yield start, end
        start = end


def _encode(entry: Entry, key: bytes) -> bytes:
    head = entry.rev << 2 | entry.liked
    if entry.like_time == entry.rev:
        return key + head.to_bytes(_HEAD)
    return key + (head | _TIMED).to_bytes(_HEAD) + entry.like_time.to_bytes(_TIME)


def _head(chunk: bytes, start: int) -> int:
    at = start + 1 + chunk[start]
    return int.from_bytes(chunk[at : at + _HEAD])


def _time(chunk: bytes, start: int) -> int:
    head = _head(chunk, start)
    if not head & _TIMED:
        return head >> 2
    at = start + 1 + chunk[start] + _HEAD
    return int.from_bytes(chunk[at : at + _TIME])


def _entry(chunk: bytes, start: int) -> Entry:
    """The entry that begins there."""
    id_end = start + 1 + chunk[start]
    head = int.from_bytes(chunk[id_end : id_end + _HEAD])
    return Entry(unpack(chunk[start + 1 : id_end]), head >> 2, bool(head & _LIKED), _time(chunk, start))
