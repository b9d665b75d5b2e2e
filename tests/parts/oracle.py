"""A sound checker of a concurrent history: it never complains about a cluster that keeps its promises.

The versions of a post put all changes of it in one order, of which each answer shows a piece. That order, the times of
the calls, the states of each edge and what the databases hold at the end must all fit together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.parts.edge_order import OrderNotFound, SearchTooLong, explain, place
from tests.parts.records import Change, CountSeen, Edge, History, LikeSeen, Stored


def contradictions(history: History, stored: Stored, *, trouble: bool) -> list[str]:
    """Everything that the answers and the databases cannot both be right about. Empty: all is well.

    ``trouble``: parts were killed meanwhile, so calls may have failed, and been tried again inside the service.
    Without it no call may have failed, and each change was told to its caller.
    """
    edges: dict[Edge, _OfEdge] = defaultdict(_OfEdge)
    posts: dict[str, _OfPost] = defaultdict(_OfPost)
    for change in history.changes:
        edges[change.edge].changes.append(change)
        posts[change.edge[0]].changes.append(change)
    for like_seen in history.likes_seen:
        edges[like_seen.edge].reads.append(like_seen)
    for count_seen in history.counts_seen:
        posts[count_seen.post_id].reads.append(count_seen)

    found = [f"on two nodes: {what}" for what in stored.twice]
    if not trouble:
        found += [f"a call failed: {failure}" for failure in history.failures]
    unseen: dict[str, int] = defaultdict(int)
    for edge, of_edge in edges.items():
        at_the_end = stored.edges.get(edge, (False, 0))
        try:
            explanation = explain(of_edge.changes, of_edge.reads, at_the_end, tried_again=trouble)
        except OrderNotFound as error:
            found.append(f"{edge}: {error}")
        except SearchTooLong as error:
            found.append(f"{edge} cannot be judged: {error}")
        else:
            unseen[edge[0]] += explanation.unseen
    found += [f"{edge} is there, and nobody ever touched it" for edge in stored.edges.keys() - edges.keys()]
    likes: dict[str, int] = defaultdict(int)
    for post_id, _ in stored.liked:
        likes[post_id] += 1
    for post_id in posts.keys() | stored.posts.keys() | likes.keys():
        version, count = stored.posts.get(post_id, (0, 0))
        if count != likes[post_id]:
            found.append(f"{post_id}: count {count}, but {likes[post_id]} liked edges")
        of_post = posts[post_id]
        found += [
            f"{post_id}: {problem}"
            for problem in (
                *_check_counts(of_post, version, count),
                *_check_versions(of_post, version, unseen[post_id], trouble=trouble),
                *_check_times(of_post, trouble=trouble),
            )
        ]
    return found


@dataclass(slots=True)
class _OfEdge:
    changes: list[Change] = field(default_factory=list)
    reads: list[LikeSeen] = field(default_factory=list)


@dataclass(slots=True)
class _OfPost:
    changes: list[Change] = field(default_factory=list)
    reads: list[CountSeen] = field(default_factory=list)

    @property
    def answered(self) -> Iterator[Change]:
        return (change for change in self.changes if change.outcome is not None)

    def may_have_changed(self, change: Change, *, trouble: bool) -> bool:
        """Whether it changed something, as it said or as nobody was told."""
        if change.outcome is None:
            return True
        return change.changed or (trouble and change.intent > 0)


def _check_counts(post: _OfPost, version: int, count: int) -> Iterator[str]:
    """Each version has one count, and neighbours differ by what the change between them was."""
    known: dict[int, int] = {0: 0}

    def says(of_version: int, value: int, who: object) -> Iterator[str]:
        if known.setdefault(of_version, value) != value:
            yield f"version {of_version} has count {known[of_version]}, and count {value} by {who}"

    yield from says(version, count, "the database")
    for change in post.answered:
        yield from says(change.version, change.count, change)
        if change.changed:
            before = change.count - (1 if change.like else -1)
            yield from says(change.version - 1, before, f"what came before {change}")
    for read in post.reads:
        yield from says(read.version, read.count, read)
    earlier, counted = 0, 0
    for later in sorted(known):
        steps, moved = later - earlier, known[later] - counted
        if abs(moved) > steps or (moved - steps) % 2:
            yield f"count moved by {moved} from version {earlier} to {later}"
        earlier, counted = later, known[later]


def _check_versions(post: _OfPost, version: int, unseen: int, *, trouble: bool) -> Iterator[str]:
    """Each version is one change's, and the post has as many as there were changes.

    ``unseen``: so many changes at least were told to nobody.
    """
    by_version: dict[int, Change] = {}
    for change in post.answered:
        if change.changed:
            if change.version in by_version:
                yield f"version {change.version} was answered to {by_version[change.version]} and to {change}"
            by_version[change.version] = change
    highest = max(
        [change.version for change in post.answered] + [read.version for read in post.reads], default=0
    )
    if highest > version:
        yield f"version {highest} was answered, but the post is at {version} at the end"
    told_to_nobody = version - sum(1 for one in by_version if one <= version)
    most = sum(
        1 for change in post.changes if not change.changed and post.may_have_changed(change, trouble=trouble)
    )
    if not unseen <= told_to_nobody <= most:
        yield (
            f"of {version} versions {told_to_nobody} were answered to nobody, but {unseen} to {most} changes can have"
            " been without answer"
        )


def _check_times(post: _OfPost, *, trouble: bool) -> Iterator[str]:
    """What was answered before a call began is seen by it, and nothing that began after its end."""
    begins = sorted(change.begin for change in post.changes if post.may_have_changed(change, trouble=trouble))
    begin_of = {change.version: change.begin for change in post.answered if change.changed}
    seen: list[tuple[int, Change | CountSeen]] = [(change.end or 0, change) for change in post.answered]
    seen += [(read.end, read) for read in post.reads]
    in_order_of_ends = iter(sorted(seen, key=lambda one: one[0]))
    next_end = next(in_order_of_ends, None)
    newest = (0, False)
    acknowledged = 0
    own: dict[int, int] = defaultdict(int)
    for one in sorted((one for _, one in seen), key=lambda one: one.begin):
        while next_end is not None and next_end[0] < one.begin:
            ended = next_end[1]
            newest = max(newest, place(ended) if isinstance(ended, Change) else (ended.version, False))
            if isinstance(ended, Change) and ended.changed:
                acknowledged = max(acknowledged, ended.version)
                own[ended.caller] = max(own[ended.caller], ended.version)
            next_end = next(in_order_of_ends, None)
        if isinstance(one, Change):
            if place(one) < newest:
                yield f"version {newest[0]} had been seen when {one} began"
        elif one.strong and one.version < newest[0]:
            yield f"version {newest[0]} had been seen when the strong {one} began"
        elif one.version < own[one.caller]:
            yield f"version {own[one.caller]} had been answered to the caller itself when {one} began"
        elif one.version < acknowledged:
            yield f"version {acknowledged} had been acknowledged when {one} began"
        begun = bisect_right(begins, one.end or 0)
        if one.version > begun:
            yield f"only {begun} changes had begun when {one} ended"
        elif begin_of.get(one.version, 0) > (one.end or 0):
            yield f"{one} ended before the change of its version began"


def judged(problems: Sequence[str], seed: object, most: int = 20) -> str:
    """The first problems, for an assertion's message: empty when there is none."""
    if not problems:
        return ""
    shown: Iterable[str] = problems[:most]
    return "\n".join([f"seed {seed}: {len(problems)} contradictions", *shown])
