"""A sound checker: what callers were told against what the databases hold.

Each edge is used by one caller at a time, so its operations have a known order; posts are shared. An operation whose
call failed may have taken effect or not, at its time; everything that was acknowledged must have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Edge = tuple[str, str]
"""(post_id, user_id)"""


@dataclass(frozen=True, slots=True)
class Record:
    """One call: what was wanted, and what was answered. ``outcome`` is None when the call failed.

    ``repeatable``: it carried an intent, so the service may have tried it again inside. A second try that finds the
    work of the first one done answers UNCHANGED.
    """

    edge: Edge
    like: bool
    outcome: str | None = None
    version: int = 0
    count: int = 0
    repeatable: bool = False


@dataclass
class Stored:
    """What the databases of a cluster hold."""

    liked: set[Edge] = field(default_factory=set)
    posts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """post_id → (version, count)"""


def contradictions(history: Iterable[Record], stored: Stored) -> list[str]:
    """Everything that the answers and the databases cannot both be right about. Empty: all is well."""
    by_edge: dict[Edge, list[Record]] = defaultdict(list)
    by_post: dict[str, list[Record]] = defaultdict(list)
    for record in history:
        by_edge[record.edge].append(record)
        by_post[record.edge[0]].append(record)
    found: list[str] = []
    unseen: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for edge, records in by_edge.items():
        problems, fewest, most = _follow(edge, records, edge in stored.liked)
        found += problems
        unseen[edge[0]] = (unseen[edge[0]][0] + fewest, unseen[edge[0]][1] + most)
    for post_id in by_post.keys() | stored.posts.keys():
        liked = sum(1 for post, _ in stored.liked if post == post_id)
        at_the_end = stored.posts.get(post_id, (0, 0))
        found += _check_post(post_id, by_post.get(post_id, []), at_the_end, liked, *unseen[post_id])
    found += [f"{edge} is liked, and nobody liked it" for edge in stored.liked - by_edge.keys()]
    return found


def _follow(edge: Edge, records: list[Record], liked_at_the_end: bool) -> tuple[list[str], int, int]:
    """Follows the states that the edge can be in; an acknowledged operation narrows them to one.

    Returns what cannot be, and how many changes took place at least and at most that nobody was told of.
    """
    problems: list[str] = []
    possible = {False}
    fewest = most = 0
    for number, record in enumerate(records):
        if record.outcome is None:
            most += record.like not in possible or len(possible) > 1
            possible.add(record.like)
            continue
        before = {not record.like} if record.outcome == "CHANGED" else {record.like}
        if record.outcome == "UNCHANGED" and record.repeatable and possible != {record.like}:
            most += 1
            fewest += record.like not in possible
        elif not possible & before:
            wanted = "like" if record.like else "unlike"
            problems.append(f"{edge}: operation {number}, {wanted}, answered {record.outcome}, cannot have")
        possible = {record.like}
    if liked_at_the_end not in possible:
        state = "liked" if liked_at_the_end else "not liked"
        problems.append(f"{edge}: is {state} at the end, which is lost or made up")
    return problems, fewest, most


def _check_post(
    post_id: str, records: list[Record], stored: tuple[int, int], liked: int, fewest: int, most: int
) -> Iterable[str]:
    version, count = stored
    if count != liked:
        yield f"{post_id}: count {count}, but {liked} liked edges"
    changes: dict[int, Record] = {}
    for record in records:
        if record.outcome == "CHANGED":
            if record.version in changes:
                yield f"{post_id}: version {record.version} was answered to two changes"
            changes[record.version] = record
    if not len(changes) + fewest <= version <= len(changes) + most:
        yield f"{post_id}: version {version} after {len(changes)} answered and {fewest} to {most} other changes"
    if changes and max(changes) > version:
        yield f"{post_id}: version {max(changes)} was answered, but the post is at {version}"
    if version in changes and changes[version].count != count:
        yield f"{post_id}: count {count}, but {changes[version].count} was answered for version {version}"
    yield from _check_counts(post_id, changes, {version: count})


def _check_counts(post_id: str, changes: Mapping[int, Record], final: Mapping[int, int]) -> Iterable[str]:
    """Between two known versions the count moves by at most one per version, and by the known changes exactly."""
    known = {0: 0, **{version: record.count for version, record in changes.items()}, **final}
    previous_version = 0
    for version in sorted(known):
        steps = version - previous_version
        moved = known[version] - known[previous_version]
        if abs(moved) > steps or (moved - steps) % 2:
            yield f"{post_id}: count moved by {moved} from version {previous_version} to {version}"
        if steps == 1 and version in changes and moved != (1 if changes[version].like else -1):
            yield f"{post_id}: version {version} moved the count by {moved}"
        previous_version = version
