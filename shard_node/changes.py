"""The pure half of the change feed: what a look at a slot's edges tells a consumer, and where the consumer stands then.

A *place* in a slot's feed is a revision. Each edge has one at its last change (``rev``) and, if it has changed since it
was first liked, one at ``first_rev``, which stays there for good. So whatever happens to an edge while a consumer is on
its way, the consumer comes by its first like exactly once.

A purge deletes edges, and with them their places. It has a place of its own, at the revision at which it was done, and
that one stays: what it voids had lower ones, and what comes after it has higher ones.

Why a position never passes a change that is still to come: revisions are issued by one writer, which commits one
transaction at a time and gives each revisions above all that it gave before (and a process that takes over waits, by
the lock on the writer row, for whatever the one before it has begun). So what one snapshot shows are the changes of the
first n transactions and of no other, and everything that is not in it will have a higher revision than all that it
shows, and than the ``last_rev`` of the writer row that it shows. That row counts only while the slot is owned in the
same snapshot: a node that has given the slot away goes on issuing revisions for other slots, and the slot's next owner
begins above those of the freeze.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from shard_node.store import Change, SlotMoment

_place: Final = attrgetter("place")


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one slot in order, and the position after them. ``first``: whether each is a first like.

    ``complete``: nothing more had changed at that moment.
    """

    told: Sequence[Change]
    first: Sequence[bool]
    position: int
    complete: bool


def changes_after(position: int, moment: SlotMoment, found: Iterable[Change], limit: int) -> Changes:
    """What follows on a position, of the changes that a look found for the slot with this limit."""
    by_rev: list[Change] = []
    by_first_rev: list[Change] = []
    purges: list[Change] = []
    for change in found:
        if change.place != change.rev:
            by_first_rev.append(change)
        elif change.first_rev is None and change.is_purge:
            purges.append(change)
        else:
            by_rev.append(change)
    # Where one of the lists was cut off, the others may not be followed any further.
    cuts = [max(map(_place, kind)) for kind in (by_rev, by_first_rev, purges) if len(kind) >= limit]
    end = min(cuts) if cuts else None
    places = sorted((*by_rev, *by_first_rev, *purges), key=_place)
    if end is not None:
        while places and places[-1].place > end:
            places.pop()
    if len(places) > limit:
        del places[limit:]
        end = places[-1].place
    complete = end is None
    if end is None:
        highest = places[-1].place if places else position
        end = max(highest, position, moment.last_rev) if moment.owned else max(highest, position)
    told: list[Change] = []
    first: list[bool] = []
    for change in places:
        if change.first_rev is None:
            if not change.is_purge:
                continue  # a tombstone of what was never liked: nothing has changed for anybody
            first.append(False)
        elif change.place == change.rev:
            # An imported like has a time of its own. It was news long ago, elsewhere.
            first.append(change.first_rev > position and change.like_time == change.rev)
        elif change.rev <= end:
            continue  # told of at its last change
        else:
            first.append(True)
        told.append(change)
    return Changes(told, first, end, complete)
