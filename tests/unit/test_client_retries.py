"""Deadlines and retries of the synchronous client, on grpcio-testing's channel and clock: no socket, no waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf.message import Message

from likering import (
    DeadlineExceeded,
    IdEmpty,
    InternalError,
    LikeringError,
    LikeTracker,
    RetryPolicy,
    RouterOverloaded,
    ServiceUnreachable,
    ShardUnavailable,
    StorageFull,
)
from likering.client.retry import Attempts, RetryThrottle
from likering.serving.status import DETAILS_KEY, to_status
from likering.v1 import like_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["LikeService"]
DONE = pb.LikeResponse(outcome=pb.MUTATION_OUTCOME_CHANGED, like_count=pb.LikeCount(count=1, version=1))


class TimeoutRecorder:
    """A channel that passes everything on and notes the timeout of each attempt, which grpcio-testing throws away."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.timeouts: list[float] = []

    def unary_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        call = self._channel.unary_unary(*arguments, **options)

        def recorded(request: Message, timeout: float, metadata: Any) -> Any:
            self.timeouts.append(timeout)
            return call(request, timeout=timeout, metadata=metadata)

        return recorded

    def unary_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._channel.unary_stream(*arguments, **options)

    def close(self) -> None:
        self._channel.close()


class Stage:
    """One client, and the test in the server's place."""

    def __init__(self, **options: Any) -> None:
        self.clock = grpc_testing.strict_fake_time(1000.0)
        self._channel = grpc_testing.channel([SERVICE], self.clock)
        self._recorder = TimeoutRecorder(self._channel)
        self.timeouts = self._recorder.timeouts
        self.likes = LikeTracker.over(
            self._recorder,  # type: ignore[arg-type]
            clock=self.clock,
            jitter=lambda: 1.0,
            **options,
        )

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        """Runs a call of the client beside the test, in a thread that nobody waits for if the call never ends."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except LikeringError as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def answer(
        self, answer: Message | LikeringError | grpc.StatusCode, method: str = "Like", *, after: float = 0.0
    ) -> tuple[dict[str, str], Any]:
        """Takes the next attempt, which must come, and answers it so much later. Its metadata and request."""
        metadata, request, rpc = self._channel.take_unary_unary(SERVICE.methods_by_name[method])
        self.clock.sleep_for(after)
        if isinstance(answer, Message):
            rpc.terminate(answer, (), grpc.StatusCode.OK, "")
        elif isinstance(answer, LikeringError):
            details = to_status(answer).SerializeToString()
            rpc.terminate(None, ((DETAILS_KEY, details),), answer.code, answer.message)
        else:
            rpc.terminate(None, (), answer, "connection reset")
        return dict(metadata), request

    @property
    def elapsed(self) -> float:
        return float(self.clock.time()) - 1000.0


@pytest.fixture
def stage() -> Stage:
    return Stage()


def like(stage: Stage, **options: Any) -> Future[Any]:
    return stage.start(lambda: stage.likes.like("u", "p", **options))


def test_a_call_that_succeeds_is_made_once_with_its_whole_deadline(stage: Stage) -> None:
    answer = like(stage)
    stage.answer(DONE)
    assert answer.result(10) is True
    assert stage.timeouts == [5.0]
    assert stage.elapsed == 0


def test_the_deadline_may_be_given_per_client_and_per_call() -> None:
    stage = Stage(timeout=2.0)
    for options in ({}, {"timeout": 0.5}):
        answer = like(stage, **options)
        stage.answer(DONE)
        answer.result(10)
    assert stage.timeouts == [2.0, 0.5]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        LikeTracker(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        LikeTracker().like("u", "p", timeout=timeout)


@pytest.mark.parametrize(
    "failure",
    [ShardUnavailable(), RouterOverloaded(retry_after=0.01), grpc.StatusCode.UNAVAILABLE],
    ids=["shard away", "overloaded", "connection lost"],
)
def test_a_passing_failure_is_tried_again_with_the_same_intent(
    stage: Stage, failure: LikeringError | grpc.StatusCode
) -> None:
    answer = like(stage)
    _, first = stage.answer(failure)
    _, second = stage.answer(DONE)
    assert answer.result(10) is True
    assert first == second
    assert first.intent_time.seconds > 0


def test_reads_are_tried_again(stage: Stage) -> None:
    answer = stage.start(lambda: stage.likes.like_count("p"))
    stage.answer(ShardUnavailable(), "GetLikeCount")
    stage.answer(pb.GetLikeCountResponse(like_count=pb.LikeCount(count=7)), "GetLikeCount")
    assert answer.result(10) == 7


@pytest.mark.parametrize(
    "failure",
    [IdEmpty(), StorageFull(), RouterOverloaded(), InternalError(), DeadlineExceeded()],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failure_that_would_stay_is_raised_at_once(stage: Stage, failure: LikeringError) -> None:
    """RESOURCE_EXHAUSTED without a RetryInfo belongs here: the server does not ask to come back."""
    answer = like(stage)
    stage.answer(failure)
    with pytest.raises(type(failure)):
        answer.result(10)
    assert stage.elapsed == 0


def test_backoff_doubles_up_to_its_maximum() -> None:
    stage = Stage(
        timeout=100.0, retry=RetryPolicy(initial_backoff=0.1, multiplier=2.0, max_backoff=0.5, tokens=1000)
    )
    answer = like(stage)
    for _ in range(5):
        stage.answer(ShardUnavailable())
    stage.answer(DONE)
    assert answer.result(10) is True
    left = [round(100.0 - timeout, 6) for timeout in stage.timeouts]
    assert left == pytest.approx([0, 0.1, 0.3, 0.7, 1.2, 1.7])


def test_jitter_takes_away_up_to_half_of_a_backoff() -> None:
    policy = RetryPolicy(initial_backoff=0.1)
    for jitter, delay in ((0.0, 0.05), (0.5, 0.075), (1.0, 0.1)):
        attempts = Attempts(policy, RetryThrottle(policy), lambda jitter=jitter: jitter)  # type: ignore[misc]
        assert attempts.delay_after(ShardUnavailable(), 5.0) == pytest.approx(delay)


def test_the_server_is_not_asked_before_it_wants_to_be(stage: Stage) -> None:
    answer = like(stage)
    stage.answer(RouterOverloaded(retry_after=1.5))
    stage.answer(DONE)
    assert answer.result(10) is True
    assert stage.elapsed >= 1.5


def test_each_attempt_gets_what_is_left_of_the_deadline(stage: Stage) -> None:
    answer = like(stage, timeout=1.0)
    stage.answer(RouterOverloaded(retry_after=0.25))
    stage.answer(RouterOverloaded(retry_after=0.25))
    stage.answer(DONE)
    assert answer.result(10) is True
    assert stage.timeouts == pytest.approx([1.0, 0.7, 0.35])


def test_time_that_passes_while_the_server_works_counts(stage: Stage) -> None:
    answer = like(stage, timeout=1.0)
    stage.answer(ShardUnavailable(), after=0.6)
    stage.answer(DONE)
    assert answer.result(10) is True
    assert stage.timeouts == pytest.approx([1.0, 0.35])


def test_the_last_error_is_raised_before_the_deadline_is_slept_into(stage: Stage) -> None:
    answer = like(stage, timeout=1.0)
    stage.answer(RouterOverloaded(retry_after=0.7))
    stage.answer(ShardUnavailable())
    stage.answer(RouterOverloaded(retry_after=30))
    with pytest.raises(RouterOverloaded) as caught:
        answer.result(10)
    assert caught.value.retry_after == 30
    assert stage.elapsed < 1.0


def test_a_service_in_trouble_is_not_finished_off_by_retries() -> None:
    """Four tokens: the second failure leaves no more than half, so it and later ones are not tried again."""
    stage = Stage(retry=RetryPolicy(tokens=4, tokens_per_success=1))
    answer = like(stage)
    stage.answer(ShardUnavailable())
    stage.answer(ShardUnavailable())
    with pytest.raises(ShardUnavailable):
        answer.result(10)
    answer = like(stage)
    stage.answer(ShardUnavailable())
    with pytest.raises(ShardUnavailable):
        answer.result(10)

    for _ in range(3):  # successes earn tokens back
        answer = like(stage)
        stage.answer(DONE)
        assert answer.result(10) is True
    answer = like(stage)
    stage.answer(ShardUnavailable())
    stage.answer(DONE)
    assert answer.result(10) is True


def test_no_tokens_mean_no_retries() -> None:
    stage = Stage(retry=RetryPolicy(tokens=0))
    answer = like(stage)
    stage.answer(ShardUnavailable())
    with pytest.raises(ShardUnavailable):
        answer.result(10)


def test_a_lost_connection_is_told_apart_from_a_shard_that_is_away() -> None:
    stage = Stage(retry=RetryPolicy(tokens=0))
    answer = like(stage)
    stage.answer(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(ServiceUnreachable):
        answer.result(10)


def test_a_token_travels_with_every_attempt() -> None:
    tokens = iter(["first", "second"])
    stage = Stage(token=lambda: next(tokens))
    answer = like(stage)
    first, _ = stage.answer(ShardUnavailable())
    second, _ = stage.answer(DONE)
    answer.result(10)
    assert [first["authorization"], second["authorization"]] == ["Bearer first", "Bearer second"]


def test_each_write_is_meant_later_than_the_one_before(stage: Stage) -> None:
    intents = []
    for _ in range(3):
        answer = like(stage)
        _, request = stage.answer(DONE)
        answer.result(10)
        intents.append((request.intent_time.seconds, request.intent_time.nanos))
    assert intents == sorted(set(intents))


def test_an_intent_of_the_callers_own_is_sent_as_it_is(stage: Stage) -> None:
    answer = like(stage, intent_time=1_790_000_000_123_456)
    _, request = stage.answer(DONE)
    answer.result(10)
    assert (request.intent_time.seconds, request.intent_time.nanos) == (1_790_000_000, 123_456_000)
