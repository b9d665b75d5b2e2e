"""Runs a load against one address: open loop at a rate, or with a fixed number of calls in flight.

In the open loop the latency of a call counts from the moment it was meant to be sent: a service that stalls for a
second makes every call of that second late, instead of making the generator wait politely. With a fixed number in
flight (no rate) each answer starts the next call, which finds the highest throughput and says little about latency.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeVar

import grpc

from likering.bench.callers import NOTHING, Caller, open_caller
from likering.bench.choices import Arrivals, CallerKind
from likering.bench.histogram import Histogram, quantised
from likering.bench.results import LoadResult, OpResult, Second, Written
from likering.bench.schedule import poisson, steady
from likering.bench.workload import METHODS, WRITES, Call, Op, Source, Workload
from likering.client.credentials import CredentialFiles
from likering.v1 import like_service_pb2 as pb

T = TypeVar("T")

_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_KINDS_OF_MESSAGES = 10
_YIELD_AFTER = 64


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Load:
    """What to run. Times are in seconds."""

    address: str
    workload: Workload
    seconds: float = 10.0  # measured, after the warm-up
    warmup: float = 1.0
    rate: float | None = None  # calls a second; None: as fast as ``in_flight`` allows
    arrivals: Arrivals = Arrivals.STEADY
    in_flight: int = 256  # without a rate: calls that wait for an answer at any time
    caller: CallerKind = CallerKind.LIGHT
    connections: int = 4
    timeout: float = 10.0
    shown: CredentialFiles = NOTHING  # to a secured router
    part: int = 0  # this process, of so many
    parts: int = 1
    first_user: int = 0  # continue the users of an earlier load with the same prefix
    on_second: Callable[[Second], None] | None = field(default=None, compare=False)
    on_begin: Callable[[], None] = field(default=_nothing, compare=False)  # the warm-up is over
    on_end: Callable[[], None] = field(default=_nothing, compare=False)  # the measured time is over


@dataclass(slots=True)
class Outcome:
    """A finished load, and where a following one with the same prefix must continue its users."""

    result: LoadResult
    next_user: int


async def run_load(load: Load) -> Outcome:
    """Connects, runs and waits for the last answers. Raises OSError when nobody answers at the address."""
    caller = await open_caller(
        load.caller, load.address, connections=load.connections, timeout=load.timeout, shown=load.shown
    )
    try:
        return await _Run(load, caller).run()
    finally:
        await caller.close()


class _Run:
    """One load in progress."""

    def __init__(self, load: Load, caller: Caller) -> None:
        self._load = load
        self._caller = caller
        self._source = Source(load.workload, part=load.part, first_user=load.first_user)
        self._outstanding = 0
        self._sending = True
        self._idle = asyncio.Event()
        self._codes: dict[Op, Counter[int]] = {op: Counter() for op in load.workload.mix}
        self._items: Counter[Op] = Counter()
        self._latencies: dict[Op, Counter[int]] = {op: Counter() for op in load.workload.mix}
        self._seconds: list[Counter[int]] = []
        self._second_errors: Counter[int] = Counter()
        self._lags: Counter[int] = Counter()
        self._written = Written()
        self._messages: Counter[str] = Counter()
        self._begin = self._end = 0.0
        self._cpu = 0.0

    async def run(self) -> Outcome:
        load = self._load
        loop = asyncio.get_running_loop()
        start = loop.time()
        self._begin = start + load.warmup
        self._end = self._begin + load.seconds
        loop.call_at(self._begin, self._measurement_begins)
        ended = asyncio.Event()
        loop.call_at(self._end, self._measurement_ends, ended)
        reporter = asyncio.create_task(self._report())
        if load.rate is None:
            for _ in range(max(1, load.in_flight // load.parts)):
                self._send(loop.time())
        else:
            await self._follow(start, self._times(load.rate))
        await ended.wait()
        self._sending = False
        if self._outstanding:
            await self._idle.wait()
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)
        return Outcome(self._result(), self._source.next_user)

    def _times(self, rate: float) -> Iterator[float]:
        load = self._load
        seconds = load.warmup + load.seconds
        if load.arrivals is Arrivals.POISSON:
            return poisson(rate, seconds, Random(f"{load.workload.seed}/{load.part}"), parts=load.parts)
        return steady(rate, seconds, part=load.part, parts=load.parts)

    async def _follow(self, start: float, times: Iterator[float]) -> None:
        loop = asyncio.get_running_loop()
        unbroken = 0
        for time_ in times:
            intended = start + time_
            now = loop.time()
            if intended > now:
                await asyncio.sleep(intended - now)
                now = loop.time()
                unbroken = 0
            elif unbroken == _YIELD_AFTER:  # late: answers must be read all the same
                await asyncio.sleep(0)
                unbroken = 0
            unbroken += 1
            if intended >= self._begin:
                self._lags[quantised(max(1, round((now - intended) * 1e6)))] += 1
            self._send(intended)

    def _send(self, intended: float) -> None:
        call = self._source.next()
        self._outstanding += 1
        self._caller.call(METHODS[call.op], call.request, partial(self._done, call, intended))

    def _done(self, call: Call, intended: float, code: int, response: bytes, message: str) -> None:
        now = time.monotonic()
        self._outstanding -= 1
        closed = self._load.rate is None
        at = now if closed else intended
        if self._begin <= at < self._end:
            self._codes[call.op][code] += 1
            latency = quantised(max(1, round((now - intended) * 1e6)))
            self._latencies[call.op][latency] += 1
            if code == 0:
                self._items[call.op] += call.items
            second = int(now - self._begin)
            while len(self._seconds) <= second:
                self._seconds.append(Counter())
            self._seconds[second][latency] += 1
            if code:
                self._second_errors[second] += 1
        if code:
            text = f"{_CODE_NAMES.get(code, code)}: {message}"
            if text in self._messages or len(self._messages) < _KINDS_OF_MESSAGES:
                self._messages[text] += 1
        if call.op in WRITES:
            self._count_written(call, code, response)
        if self._sending and closed:
            self._send(now)
        elif not self._outstanding and not self._sending:
            self._idle.set()

    def _count_written(self, call: Call, code: int, response: bytes) -> None:
        written = self._written
        changed = pb.MUTATION_OUTCOME_CHANGED
        invalid: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        if code == invalid:
            written.refused += call.items
        elif code:
            written.uncertain += call.items
        elif call.op is Op.LIKE:
            written.likes += pb.LikeResponse.FromString(response).outcome == changed
        elif call.op is Op.UNLIKE:
            written.unlikes += pb.UnlikeResponse.FromString(response).outcome == changed
        else:
            for result in pb.MutateLikesResponse.FromString(response).results:
                if result.outcome == changed:
                    written.likes += 1
                elif result.status.code == invalid:
                    written.refused += 1
                elif result.status.code:
                    written.uncertain += 1

    def _measurement_begins(self) -> None:
        self._cpu = time.process_time()
        self._load.on_begin()

    def _measurement_ends(self, ended: asyncio.Event) -> None:
        self._cpu = time.process_time() - self._cpu
        self._load.on_end()
        if self._load.rate is None:
            self._sending = False
        ended.set()

    async def _report(self) -> None:
        on_second = self._load.on_second
        if on_second is None:
            return
        loop = asyncio.get_running_loop()
        second = 0
        while True:
            await asyncio.sleep(max(0.0, self._begin + second + 1 - loop.time()))
            on_second(self._second(second))
            second += 1

    def _second(self, number: int) -> Second:
        counts = self._seconds[number] if number < len(self._seconds) else Counter()
        return Second(
            calls=counts.total(),
            errors=self._second_errors[number],
            p50=_percentile(counts, 0.50),
            p99=_percentile(counts, 0.99),
        )

    def _result(self) -> LoadResult:
        result = LoadResult(
            seconds=self._load.seconds,
            written=self._written,
            send_lag=Histogram.of([self._lags]),
            timeline=[self._second(number) for number in range(len(self._seconds))],
            client_cpu_seconds=self._cpu,
            messages=self._messages,
        )
        for op, codes in self._codes.items():
            result.ops[op] = OpResult(
                codes=Counter({_CODE_NAMES.get(code, str(code)): count for code, count in codes.items()}),
                items=self._items[op],
                latency=Histogram.of([self._latencies[op]]),
            )
        return result


def _percentile(counts: Counter[int], share: float) -> int:
    left = counts.total() * share
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


class PacedSelector(selectors.DefaultSelector):
    """Looks for events at most once in ``pace`` seconds, so that one look finds many of them. 0: as they come."""

    def __init__(self, pace: float = 0.0) -> None:
        super().__init__()
        self.pace = pace
        self._last = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.pace > 0 and (timeout is None or timeout > 0):
            early = self._last + self.pace - time.monotonic()
            if early > 0:
                time.sleep(early if timeout is None else min(early, timeout))
            self._last = time.monotonic()
        return super().select(timeout)


def run_paced(main: Coroutine[Any, Any, T], pace: float) -> T:
    """Runs an event loop that looks for answers at most every ``pace`` seconds; 0: as they come.

    A pace of a millisecond or two halves the client's CPU per call when hundreds are in flight, and adds that much to
    each latency: right for finding the highest throughput, wrong for measuring latency.
    """
    if pace <= 0:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PacedSelector(pace))) as runner:
        return runner.run(main)
