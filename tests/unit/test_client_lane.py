"""Lanes: when batches depart, and that no operation is left without an answer."""

from __future__ import annotations

import asyncio

import pytest

from likering.client.lane import Lane
from likering.errors import DeadlineExceeded, InternalError, LikeringError


class Journey:
    """A batch whose arrival the test decides."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.departed = asyncio.Event()
        self.arrive = asyncio.Event()
        self.timeout = 0.0
        self.bug: Exception | None = None

    async def send(self, timeout: float) -> None:
        self.timeout = timeout
        self.departed.set()
        await self.arrive.wait()
        if self.bug is not None:
            raise self.bug
        self.answer.set_result("done")

    def fail(self, error: LikeringError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def lane_of(limit: int = 1, timeout: float = 20.0) -> Lane[Journey]:
    return Lane(asyncio.get_running_loop(), Journey, limit=limit, timeout=timeout)


def board(lane: Lane[Journey]) -> Journey:
    return lane.gathering or lane.open()


async def test_a_batch_leaves_at_the_end_of_its_tick() -> None:
    lane = lane_of()
    first, second = board(lane), board(lane)
    assert first is second
    assert not first.departed.is_set()
    await asyncio.wait_for(first.departed.wait(), 5)
    assert 19 < first.timeout <= 20
    first.arrive.set()
    await lane.drain()
    assert first.answer.result() == "done"


async def test_a_batch_that_travels_takes_no_more() -> None:
    lane = lane_of(limit=2)
    first = board(lane)
    await first.departed.wait()
    second = board(lane)
    assert second is not first
    await second.departed.wait()
    third = board(lane)
    second.arrive.set()
    await asyncio.wait_for(third.departed.wait(), 5)
    for journey in (first, third):
        journey.arrive.set()
    await lane.drain()


async def test_a_full_batch_waits_its_turn_behind_others() -> None:
    lane = lane_of()
    travelling = board(lane)
    await travelling.departed.wait()
    journeys = []
    for _ in range(3):
        journeys.append(board(lane))
        lane.seal()
    assert len(set(journeys)) == 3
    for before, after in zip([travelling, *journeys], journeys, strict=False):
        before.arrive.set()
        await asyncio.wait_for(after.departed.wait(), 5)
    journeys[-1].arrive.set()
    await lane.drain()


async def test_a_batch_that_takes_long_lets_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likering.client.lane._PATIENCE", 0.01)
    monkeypatch.setattr("likering.client.lane._MOST_OVERDUE", 2)
    lane = lane_of()
    stuck = []
    for _ in range(3):
        stuck.append(board(lane))
        await asyncio.wait_for(stuck[-1].departed.wait(), 5)
    behind = board(lane)
    await asyncio.sleep(0.1)  # ten times the patience; two are overdue already, so that no more may be
    assert not behind.departed.is_set()
    stuck[0].arrive.set()  # an overdue one returns: that alone makes no room in the lane
    stuck[2].arrive.set()
    await asyncio.wait_for(behind.departed.wait(), 5)
    for journey in (stuck[1], behind):
        journey.arrive.set()
    await lane.drain()
    assert repr(lane) == "Lane(0 waiting, 0 travelling, 0 overdue)"


async def test_what_cannot_leave_expires() -> None:
    lane = lane_of(timeout=0.05)
    travelling = board(lane)
    await travelling.departed.wait()
    waiting = [board(lane)]
    lane.seal()
    waiting.append(board(lane))
    for journey in waiting:
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(journey.answer, 5)
    travelling.arrive.set()
    await lane.drain()
    later = board(lane)
    await asyncio.wait_for(later.departed.wait(), 5)
    later.arrive.set()
    await lane.drain()


async def test_a_bug_leaves_nobody_waiting_and_the_lane_open() -> None:
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    lane = lane_of()
    broken = board(lane)
    broken.bug = ZeroDivisionError("a bug")
    broken.arrive.set()
    with pytest.raises(InternalError):
        await asyncio.wait_for(broken.answer, 5)
    next_one = board(lane)
    await asyncio.wait_for(next_one.departed.wait(), 5)
    next_one.arrive.set()
    await lane.drain()
    del broken
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_when_the_loop_ends_nothing_departs_any_more() -> None:
    def run() -> tuple[Journey, Journey]:
        async def leave() -> tuple[Journey, Journey]:
            lane = lane_of()
            travelling = board(lane)
            await travelling.departed.wait()
            return travelling, board(lane)

        return asyncio.run(leave())

    travelling, waiting = await asyncio.to_thread(run)
    assert isinstance(travelling.answer.exception(), InternalError)
    assert not waiting.departed.is_set()
