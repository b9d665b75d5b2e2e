"""A like service of one process without any time of its own, called at random: histories that are right for certain."""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from likering.client.model import Outcome
from shard_node.fold import EdgeState, Operation, fold
from tests.parts.records import Change, CountSeen, Edge, History, LikeSeen, Stored

_START = 1_700_000_000_000_000


class Simulation:
    """So many callers with so many calls each, all under way at the same time.

    ``trouble``: calls may fail, having taken effect or not, even later; those with an intent may be tried again inside.
    """

    def __init__(self, seed: int, *, callers: int = 6, calls: int = 40, trouble: bool = False) -> None:
        self._chance = random.Random(seed)
        self._trouble = trouble
        self._posts = [f"p{number}" for number in range(2)]
        self._users = [f"u{number}" for number in range(4)]
        self._edges: dict[Edge, EdgeState] = {}
        self._counts: dict[str, list[tuple[int, int]]] = defaultdict(lambda: [(0, 0)])
        """By post: (moment, count) of each version."""
        self._moments: dict[Edge, list[tuple[int, bool]]] = defaultdict(lambda: [(0, False)])
        self._last_rev = 0
        self._todo: list[tuple[int, Callable[[int], object]]] = []
        self.history = History()
        for caller in range(callers):
            self._plan(caller, calls)
        for moment, act in sorted(self._todo, key=lambda one: one[0]):
            act(moment)
        self._read()

    def __repr__(self) -> str:
        return f"<Simulation: {self.history}>"

    @property
    def stored(self) -> Stored:
        """What is there at the end."""
        posts = {
            post: (len(counts) - 1, counts[-1][1]) for post, counts in self._counts.items() if len(counts) > 1
        }
        return Stored({edge: (state.liked, state.intent) for edge, state in self._edges.items()}, posts)

    def _plan(self, caller: int, calls: int) -> None:
        chance = self._chance
        now = _START + chance.randrange(1000)
        for _ in range(calls):
            begin, end = now, now + chance.randrange(10, 3000)
            now = end + chance.randrange(1, 500)
            kind = chance.random()
            if kind < 0.25:
                self.history.likes_seen.append(
                    LikeSeen(caller, begin, end, self._edge(), liked=False, strong=chance.random() < 0.5)
                )
            elif kind < 0.5:
                post, strong = chance.choice(self._posts), chance.random() < 0.5
                self.history.counts_seen.append(CountSeen(caller, begin, end, post, 0, 0, strong))
            elif kind < 0.6:
                # Two of one edge in one call, and the same request from somebody else at the same time.
                edge, call, like = self._edge(), chance.randrange(1, 2**40), chance.random() < 0.5
                moment = chance.randrange(begin + 1, end)
                for index in range(2):
                    self._at(
                        moment,
                        Change(caller, begin, end, edge, like ^ bool(index), 0, call=call, index=index),
                    )
                again = Change(caller, begin, end, edge, like, intent=begin)
                self._at(chance.randrange(begin + 1, end), again)
                self._at(chance.randrange(begin + 1, end), again)
            else:
                late = chance.choice((0, 0, 3000)) if chance.random() < 0.5 else None
                intent = 0 if late is None else begin - late
                self._change(Change(caller, begin, end, self._edge(), chance.random() < 0.6, intent))

    def _change(self, change: Change) -> None:
        chance = self._chance
        assert change.end is not None
        moment = chance.randrange(change.begin + 1, change.end)
        if self._trouble and chance.random() < 0.15:
            failed = replace(change, end=None)
            if chance.random() < 0.6:
                self._at(moment + chance.randrange(5000), failed)
            else:
                self.history.changes.append(failed)
            return
        if self._trouble and change.intent and chance.random() < 0.3:
            first = chance.randrange(change.begin, moment)
            self._todo.append((first, lambda moment: self._execute(change, moment)))
        self._at(moment, change)

    def _at(self, moment: int, change: Change) -> None:
        def act(moment: int) -> None:
            answered = self._execute(change, moment)
            self.history.changes.append(change if change.end is None else answered)

        self._todo.append((moment, act))

    def _execute(self, change: Change, moment: int) -> Change:
        post_id, user_id = edge = change.edge
        self._last_rev = max(self._last_rev + 1, moment)
        folded = fold(
            [Operation(post_id, user_id, 0, change.like, change.intent, self._last_rev)], self._edges
        )
        self._edges |= folded.edges
        outcome = Outcome(int(folded.answers[0].outcome))
        counts = self._counts[post_id]
        if outcome is Outcome.CHANGED:
            counts.append((moment, counts[-1][1] + (1 if change.like else -1)))
            self._moments[edge].append((moment, change.like))
        return replace(change, outcome=outcome, version=len(counts) - 1, count=counts[-1][1])

    def _read(self) -> None:
        """Answers the reads: strong ones as of a moment within, others as of any that has all that was acknowledged."""
        chance = self._chance
        for number, read in enumerate(self.history.likes_seen):
            moment = chance.randrange(read.begin + 1, read.end)
            moments = self._moments[read.edge]
            newest = bisect.bisect(moments, (moment, True)) - 1
            oldest = newest if read.strong else min(newest, self._acknowledged_to(read.begin, edge=read.edge))
            self.history.likes_seen[number] = replace(read, liked=moments[chance.randint(oldest, newest)][1])
        for number, seen in enumerate(self.history.counts_seen):
            moment = chance.randrange(seen.begin + 1, seen.end)
            counts = self._counts[seen.post_id]
            newest = bisect.bisect(counts, (moment, 2**62)) - 1
            oldest = newest
            if not seen.strong:
                acknowledged = [
                    change.version
                    for change in self.history.changes
                    if change.edge[0] == seen.post_id
                    and change.changed
                    and (change.end or 2**62) < seen.begin
                ]
                oldest = min(newest, max(acknowledged, default=0))
            version = chance.randint(oldest, newest)
            self.history.counts_seen[number] = replace(seen, version=version, count=counts[version][1])

    def _acknowledged_to(self, begin: int, *, edge: Edge) -> int:
        """Position among the edge's moments of the newest that an answer before ``begin`` knew."""
        versions = [
            change.version
            for change in self.history.changes
            if change.edge == edge and change.outcome and (change.end or 2**62) < begin
        ]
        if not versions:
            return 0
        moment = self._counts[edge[0]][max(versions)][0]
        return bisect.bisect(self._moments[edge], (moment, True)) - 1

    def _edge(self) -> Edge:
        return (self._chance.choice(self._posts), self._chance.choice(self._users))
