"""Looks for an order of one edge's operations that explains every answer: linearizability of a small register.

The search of Wing & Gong with Lowe's memory of what was tried: of the operations that nothing must precede any more,
one is put next; a set of operations and the state after them is never looked at twice, nor is one from which less can
follow. Its cost is bounded, and who runs into the bound is told.

The state is whether the edge is liked, and between which bounds the newest intent lies: an operation without intent
leaves the revision that the server gave it, which its caller is not told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from likering.client.model import Outcome
from tests.parts.records import Change, LikeSeen

MAX_STATES = 100_000
"""States of one edge that are looked at before the search gives up."""
CLOCK_SLACK_US = 1_000_000
"""How far a revision may be from the caller's times: clocks are adjusted, and revisions only grow."""
_FOREVER = 2**63


class State(NamedTuple):
    """An edge. The newest intent lies in ``low`` … ``high``, both included."""

    liked: bool = False
    low: int = 0
    high: int = 0


class OrderNotFound(Exception):
    """No order explains the answers. The message says how far it went."""


class SearchTooLong(Exception):
    """More than MAX_STATES states: nobody knows whether there is an order."""


def after(state: State, change: Change) -> State | None:
    """The state after a change that was answered as it was; None when it cannot have been answered so."""
    if not change.intent:
        if change.outcome is Outcome.CHANGED and state.liked != change.like:
            return _by_server(state, change)
        same = change.outcome is Outcome.UNCHANGED and state.liked == change.like
        return state if same else None
    if change.outcome is Outcome.SUPERSEDED:
        later = max(state.low, change.intent + 1)
        return State(state.liked, later, state.high) if state.high >= later else None
    expected = Outcome.UNCHANGED if state.liked == change.like else Outcome.CHANGED
    if change.outcome is not expected or state.low > change.intent:
        return None
    return State(change.like, change.intent, change.intent)


def after_unseen(state: State, change: Change) -> State | None:
    """The state after a change whose answer nobody got; None when it would have had no effect."""
    if not change.intent:
        return _by_server(state, change) if state.liked != change.like else None
    return State(change.like, change.intent, change.intent) if state.low <= change.intent else None


def _by_server(state: State, change: Change) -> State:
    earliest = change.begin - CLOCK_SLACK_US
    latest = _FOREVER if change.end is None else change.end + CLOCK_SLACK_US
    return State(change.like, max(state.low, earliest), max(state.high, latest))


@dataclass(frozen=True, slots=True)
class Explanation:
    """There is an order. ``unseen``: perhaps only with a change that was not answered, or made by a first try."""

    unseen: bool


def explain(
    changes: Sequence[Change],
    reads: Sequence[LikeSeen],
    at_the_end: tuple[bool, int],
    *,
    tried_again: bool,
) -> Explanation:
    """Finds an order. Raises OrderNotFound or SearchTooLong.

    ``at_the_end``: (liked, newest intent) as stored. ``tried_again``: whether the service may have tried operations
    with an intent more than once, of which the last answer was told.
    """
    answered = [change for change in changes if change.outcome is not None]
    unanswered = [change for change in changes if change.outcome is None]
    repeated = [
        change
        for change in answered
        if tried_again and change.intent and change.outcome is not Outcome.CHANGED
    ]
    # The less is supposed the sooner an order is found, if there is one. What only raises the intent is no change.
    suppositions: list[tuple[Sequence[Change], bool]] = [((), False)]
    if unanswered:
        suppositions += [(unanswered, False), (unanswered, True)]
    if repeated:
        suppositions += [((*unanswered, *repeated), False), ((*unanswered, *repeated), True)]
    failure: OrderNotFound | None = None
    for unseen, may_flip in suppositions:
        try:
            _Search(answered, reads, unseen, at_the_end, may_flip=may_flip).run()
        except OrderNotFound as error:
            failure = error
        else:
            return Explanation(unseen=may_flip)
    assert failure is not None
    raise failure


class _Item(NamedTuple):
    begin: int
    end: int
    before: int
    """The items that come first, as a bit mask of positions."""
    apply: Callable[[State], State | None]
    what: Change | LikeSeen


class _Search:
    """``unseen``: changes that may have an effect once, at any time after their begin, but need not.

    Without ``may_flip`` it can only be that they raise the newest intent.
    """

    def __init__(
        self,
        answered: Sequence[Change],
        reads: Sequence[LikeSeen],
        unseen: Sequence[Change],
        at_the_end: tuple[bool, int],
        *,
        may_flip: bool,
    ) -> None:
        required: list[Change | LikeSeen] = sorted([*answered, *reads], key=lambda one: one.begin)
        self._items = [
            _Item(one.begin, one.end or 0, _before(one, required), _application(one), one) for one in required
        ]
        positions = {id(one): position for position, one in enumerate(required)}
        self._unseen = [
            # One that was answered has no effect any more after its answer's.
            (
                change,
                _ended_before(change, required),
                1 << positions[id(change)] if id(change) in positions else 0,
            )
            for change in sorted(unseen, key=lambda change: change.begin)
        ]
        self._may_flip = may_flip
        self._all = (1 << len(required)) - 1
        self._at_the_end = at_the_end

    def run(self) -> None:
        """Returns when there is an order."""
        start = (0, 0, State())
        stack = [start]
        looked_at: dict[tuple[int, bool], list[tuple[int, State]]] = defaultdict(list)
        states = 0
        furthest = start
        complete: State | None = None
        while stack:
            done, used, state = stack.pop()
            similar = looked_at[done, state.liked]
            if any(not other & ~used and _as_wide(wide, state) for other, wide in similar):
                continue  # what can follow could follow that one, too
            similar.append((used, state))
            states += 1
            if states > MAX_STATES:
                raise SearchTooLong(f"no order found in {MAX_STATES} states of {len(self._items)} operations")
            if done == self._all:
                complete = state
                if self._is_the_end(state):
                    return
            if done.bit_count() > furthest[0].bit_count():
                furthest = (done, used, state)
            stack += self._successors(done, used, state)
        liked, intent = self._at_the_end
        if complete is not None:
            raise OrderNotFound(
                f"is {'liked' if liked else 'not liked'} with intent {intent} at the end, which is lost or made up:"
                f" the answers end with {complete}"
            )
        done, _, state = furthest
        stuck = [item.what for _, item in self._enabled(done)]
        raise OrderNotFound(
            f"no order explains the answers; after {done.bit_count()}, {state}, comes none of {stuck}"
        )

    def _is_the_end(self, state: State) -> bool:
        liked, intent = self._at_the_end
        return state.liked == liked and state.low <= intent <= state.high

    def _enabled(self, done: int) -> list[tuple[int, _Item]]:
        found = []
        first_end = _FOREVER
        first_open = (~done & (done + 1)).bit_length() - 1
        for position in range(first_open, len(self._items)):
            if done >> position & 1:
                continue
            item = self._items[position]
            if item.begin > first_end:
                break  # in the order of their begins: all that follow come after one that is not done
            if not item.before & ~done:
                found.append((position, item))
            if isinstance(
                item.what, Change
            ):  # it comes before whatever begins after its end; a read need not
                first_end = min(first_end, item.end)
        return found

    def _successors(self, done: int, used: int, state: State) -> list[tuple[int, int, State]]:
        answered = []
        for position, item in self._enabled(done):
            following = item.apply(state)
            if following == state:
                # It changes nothing, so it may as well come at once: no other choice can do better.
                return [(done | 1 << position, used, state)]
            if following is not None:
                answered.append((done | 1 << position, used, following))
        unseen = []
        tried: set[bool] = set()
        for number, (change, before, own) in enumerate(self._unseen):
            if used >> number & 1 or before & ~done or done & own:
                continue
            if not change.intent:
                # Of those without intent the one that began first fits wherever a later one does.
                if change.like in tried:
                    continue
                tried.add(change.like)
            following = after_unseen(state, change)
            if following is None or following == state:
                continue
            if self._may_flip or following.liked == state.liked:
                unseen.append((done, used | 1 << number, following))
        return unseen + answered  # the last is looked at first


def _as_wide(one: State, other: State) -> bool:
    return one.low <= other.low and one.high >= other.high


def _application(one: Change | LikeSeen) -> Callable[[State], State | None]:
    if isinstance(one, LikeSeen):
        return lambda state: state if state.liked == one.liked else None
    return lambda state: after(state, one)


def _before(one: Change | LikeSeen, others: Sequence[Change | LikeSeen]) -> int:
    mask = 0
    for position, other in enumerate(others):
        if other is not one and _precedes(other, one):
            mask |= 1 << position
    return mask


def _ended_before(change: Change, others: Sequence[Change | LikeSeen]) -> int:
    mask = 0
    for position, other in enumerate(others):
        weak = isinstance(other, LikeSeen) and not other.strong
        if not weak and other is not change and other.end is not None and other.end < change.begin:
            mask |= 1 << position
    return mask


def _precedes(one: Change | LikeSeen, other: Change | LikeSeen) -> bool:
    """Whether ``one`` must come first: by time, by the versions of the post, or by their order within a call.

    A read that is not strong sees all changes that ended before it began, and none that began after it ended; it has
    no order with other reads.
    """
    if isinstance(one, LikeSeen) and isinstance(other, LikeSeen) and not (one.strong and other.strong):
        return False
    assert one.end is not None
    if one.end < other.begin:
        return True
    if isinstance(one, LikeSeen) or isinstance(other, LikeSeen):
        return False
    if one.call and one.call == other.call and one.index < other.index:
        return True
    return place(one) < place(other)


def place(change: Change) -> tuple[int, bool]:
    """Where a change that was answered stands among those of its post: what changed nothing saw that version."""
    return (change.version, not change.changed)
