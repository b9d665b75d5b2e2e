"""The service in memory: intents, tombstones, versions, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from likering import (
    Action,
    BatchEmpty,
    BatchTooLarge,
    ClientClosed,
    IdEmpty,
    IntentInFuture,
    LikeTracker,
    Mutation,
    Outcome,
    VersionAhead,
)
from likering.client.intents import IntentClock
from likering.client.memory import MemoryLikes
from likering.client.model import EPOCH, micros_of, time_of
from likering.validation import INTENT_INVALID

NOW = 1_790_000_000_000_000
CHANGED, UNCHANGED, SUPERSEDED = Outcome.CHANGED, Outcome.UNCHANGED, Outcome.SUPERSEDED


class Wall:
    """A wall clock that goes where it is put."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def memory(wall: Wall) -> MemoryLikes:
    return MemoryLikes(wall)


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Threads give way to each other every few instructions, not every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def do(memory: MemoryLikes, action: Action, intent: int = 0) -> tuple[Outcome | None, int, int]:
    result = memory.apply("u", "p", action, intent)
    assert result.like_count is not None
    return result.outcome, result.like_count.count, result.like_count.version


def test_the_class_of_the_first_day_prints_what_it_printed() -> None:
    tracker = LikeTracker()
    printed: list[object] = [
        tracker.like("u1", "p1"),
        tracker.like("u2", "p1"),
        tracker.has_liked("u1", "p1"),
        tracker.like_count("p1"),
    ]
    tracker.unlike("u1", "p1")
    printed += [tracker.has_liked("u1", "p1"), tracker.like_count("p1")]
    assert printed == [True, True, True, 2, False, 1]


def test_only_changes_raise_the_version(memory: MemoryLikes) -> None:
    assert do(memory, Action.UNLIKE) == (UNCHANGED, 0, 0)
    assert do(memory, Action.LIKE) == (CHANGED, 1, 1)
    assert do(memory, Action.LIKE) == (UNCHANGED, 1, 1)
    assert do(memory, Action.UNLIKE) == (CHANGED, 0, 2)
    assert do(memory, Action.LIKE) == (CHANGED, 1, 3)


def test_an_older_intent_is_superseded_and_an_equal_one_is_not(memory: MemoryLikes) -> None:
    assert do(memory, Action.LIKE, NOW) == (CHANGED, 1, 1)
    assert do(memory, Action.UNLIKE, NOW - 1) == (SUPERSEDED, 1, 1)
    assert do(memory, Action.LIKE, NOW - 1) == (SUPERSEDED, 1, 1)
    assert do(memory, Action.UNLIKE, NOW) == (CHANGED, 0, 2)


def test_a_tombstone_holds_off_a_late_like(memory: MemoryLikes) -> None:
    """An unlike that arrives before its like, on an edge never seen, still wins."""
    assert do(memory, Action.UNLIKE, NOW) == (UNCHANGED, 0, 0)
    assert do(memory, Action.LIKE, NOW - 1) == (SUPERSEDED, 0, 0)


def test_a_repetition_with_a_newer_intent_is_remembered(memory: MemoryLikes) -> None:
    do(memory, Action.LIKE, NOW)
    assert do(memory, Action.LIKE, NOW + 10) == (UNCHANGED, 1, 1)
    assert do(memory, Action.UNLIKE, NOW + 5) == (SUPERSEDED, 1, 1)


def test_without_intent_an_operation_always_takes_effect(memory: MemoryLikes, wall: Wall) -> None:
    do(memory, Action.LIKE, NOW + 50_000_000)
    assert do(memory, Action.UNLIKE) == (CHANGED, 0, 2)
    assert do(memory, Action.LIKE, NOW + 49_000_000) == (SUPERSEDED, 0, 2)


def test_a_change_without_intent_is_meant_when_it_happens(memory: MemoryLikes, wall: Wall) -> None:
    do(memory, Action.LIKE)
    assert do(memory, Action.UNLIKE, NOW - 1) == (SUPERSEDED, 1, 1)
    assert do(memory, Action.UNLIKE, NOW + 1) == (CHANGED, 0, 2)


def test_an_intent_too_far_ahead_is_refused_and_leaves_no_trace(memory: MemoryLikes) -> None:
    with pytest.raises(IntentInFuture) as caught:
        memory.apply("u", "p", Action.LIKE, NOW + 60_000_001)
    assert [violation.field for violation in caught.value.violations] == ["intent_time"]
    assert do(memory, Action.LIKE, NOW - 1) == (CHANGED, 1, 1)


def test_a_batch_answers_each_item_as_if_alone(memory: MemoryLikes) -> None:
    results = memory.mutate(
        [
            ("u", "p", Action.LIKE, NOW),
            ("u", "p", Action.UNLIKE, NOW + 1),
            ("u", "p", Action.LIKE, NOW - 1),
            ("", "p", Action.LIKE, 0),
            ("u", "p", 9, 0),
            ("v", "p", Action.LIKE, 0),
        ]
    )
    assert [result.outcome for result in results] == [CHANGED, CHANGED, SUPERSEDED, None, None, CHANGED]
    assert [result.like_count and result.like_count.version for result in results] == [1, 2, 2, None, None, 3]
    empty, unknown = results[3].error, results[4].error
    assert isinstance(empty, IdEmpty)
    assert [violation.field for violation in empty.violations] == ["mutations[3].user_id"]
    assert unknown is not None
    assert [violation.field for violation in unknown.violations] == ["mutations[4].action"]
    with pytest.raises(IdEmpty):
        results[3].raise_for_error()


@pytest.mark.parametrize(("size", "error"), [(0, BatchEmpty), (1001, BatchTooLarge)])
def test_a_batch_of_the_wrong_size_is_refused_as_a_whole(size: int, error: type[Exception]) -> None:
    tracker = LikeTracker()
    with pytest.raises(error):
        tracker.mutate([Mutation.like("u", "p")] * size)
    assert tracker.like_count("p") == 0


def test_a_version_not_reached_yet_is_refused(memory: MemoryLikes) -> None:
    do(memory, Action.LIKE)
    assert memory.like_count("p", 0, 1).count == 1
    questions: list[Callable[[], object]] = [
        lambda: memory.like_count("p", 0, 2),
        lambda: memory.like_state("u", "p", 0, 2),
        lambda: memory.filter_likers("p", ["u"], 0, 2),
        lambda: memory.like_count("nobody liked it", 0, 1),
    ]
    for question in questions:
        with pytest.raises(VersionAhead):
            question()


def test_the_time_of_a_like_is_when_it_took_effect(memory: MemoryLikes, wall: Wall) -> None:
    do(memory, Action.LIKE, NOW - 5)
    assert memory.like_state("u", "p", 0, 0).like_time == time_of(NOW)
    do(memory, Action.UNLIKE, NOW)
    assert memory.like_state("u", "p", 0, 0).like_time is None


def test_threads_lose_no_like(often_switching: None) -> None:
    tracker = LikeTracker()
    with ThreadPoolExecutor(8) as threads:
        changed = list(
            threads.map(lambda number: tracker.like(f"u{number % 16}", f"p{number // 32}"), range(6400))
        )
    assert sum(changed) == 3200
    counts = [tracker.get_like_count(f"p{number}") for number in range(200)]
    assert {(count.count, count.version) for count in counts} == {(16, 16)}


def test_a_closed_tracker_refuses_calls() -> None:
    with LikeTracker() as tracker:
        tracker.like("u", "p")
    tracker.close()
    for call in (lambda: tracker.like_count("p"), tracker.connect):
        with pytest.raises(ClientClosed):
            call()


def test_intents_grow_while_the_wall_clock_stands_or_goes_back() -> None:
    wall = Wall()
    clock = IntentClock(wall)
    stamps = [clock.next(), clock.next()]
    wall.now -= 3_600_000_000
    stamps.append(clock.next())
    wall.now += 7_200_000_000
    stamps.append(clock.next())
    assert stamps == [NOW, NOW + 1, NOW + 2, NOW + 3_600_000_000]


def test_threads_never_get_the_same_intent(often_switching: None) -> None:
    clock = IntentClock()
    with ThreadPoolExecutor(8) as threads:
        stamps = list(threads.map(lambda _: clock.next(), range(4000)))
    assert len(set(stamps)) == 4000


def test_an_intent_may_be_a_datetime_of_any_zone() -> None:
    moment = datetime(2026, 11, 23, 12, 0, 0, 123456, UTC)
    same = moment.astimezone(timezone(timedelta(hours=9)))
    assert micros_of(moment) == micros_of(same) == 1_795_435_200_123_456
    assert time_of(micros_of(moment)) == moment


def test_what_is_no_moment_after_1970_is_invalid() -> None:
    for moment in (EPOCH, EPOCH - timedelta(days=1), 0, -5, 253_402_300_800_000_000):
        assert micros_of(moment) == INTENT_INVALID


def test_an_intent_that_is_no_moment_at_all_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="time zone"):
        micros_of(datetime(2026, 11, 23))  # noqa: DTZ001 - that is the bug
    with pytest.raises(TypeError):
        micros_of(1.5)  # type: ignore[arg-type]


def test_an_id_that_is_no_text_is_the_callers_bug() -> None:
    for value in (5, b"p", None):
        with pytest.raises(TypeError):
            LikeTracker().like("u", value)  # type: ignore[arg-type]
