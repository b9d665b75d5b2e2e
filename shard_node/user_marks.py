"""The pure half of telling the users' side: how far each node has been told, and what other owners mean for that.

A node's *mark* for a slot of posts: of the users whose slots it owns, all changes up to this revision have been
committed, by it or by whoever owned them before. It may lag behind what is so, since everything may be told twice; it
must never be ahead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from shard_node.user_store import Marks

Routes = tuple[str | None, ...]
"""The node that owns each slot; None: nobody yet, whose mark is kept under the empty name."""


def digest(routes: Routes) -> int:
    """A 64-bit number, with a sign, that two different routes do not share."""
    value = xxh3_64_intdigest("\0".join(node or "" for node in routes).encode())
    return value - 2**64 if value >= 2**63 else value


def successions(before: Routes, after: Routes) -> frozenset[tuple[str, str]]:
    """Who came after whom: owner of before and of now, for all slots. A few, however many slots there are."""
    return frozenset((old or "", new or "") for old, new in set(zip(before, after, strict=True)))


def rerouted(marks: Mapping[str, int], changed: Collection[tuple[str, str]]) -> dict[str, int]:
    """The marks once slots have other owners, by the ``successions``.

    What the owner of before has accepted went with the slot. So a node has been told as much as the least that any
    owner of before of its slots had been. Owners in between, unheard of, were told nothing from here.
    """
    lowest: dict[str, int] = {}
    for old, new in changed:
        mark = marks.get(old, 0)
        lowest[new] = min(mark, lowest.get(new, mark))
    return lowest


def restored(marks: Marks | None, routes: Routes) -> dict[str, int]:
    """The marks that a process of before, or another node, has noted.

    If that was under other routes nobody knows which ones: then what all had accepted is what each is sure to have.
    """
    nodes = {node or "" for node in routes}
    if marks is None:
        return dict.fromkeys(nodes, 0)
    if marks.routes == digest(routes):
        return {node: marks.by_node.get(node, 0) for node in nodes}
    return dict.fromkeys(nodes, min(marks.by_node.values(), default=0))


def accepted(start: int, end: int, revs: Sequence[int], refused: Sequence[bool]) -> int:
    """The mark after an answer to the changes of these revisions, rising, which are all from ``start`` to ``end``.

    ``refused`` may be empty: none was.
    """
    for rev, was_refused in zip(revs, refused, strict=False):
        if was_refused:
            return max(start, rev - 1)
    return end
