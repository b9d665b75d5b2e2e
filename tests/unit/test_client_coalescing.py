"""AsyncLikes against a real server: what travels together, and that callers notice nothing of each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from likering import (
    Action,
    AsyncLikes,
    ClientClosed,
    Consistency,
    DeadlineExceeded,
    EnumUnknown,
    IdEmpty,
    IdNotPrintable,
    IntentInFuture,
    InternalError,
    LikeringError,
    Mutation,
    Outcome,
    RetryPolicy,
    RouterOverloaded,
    ShardUnavailable,
    VersionAhead,
)
from likering.client.coalescing import BATCHES_IN_FLIGHT, WRITES_OF_BATCH
from tests.parts.like_server import LikeServer


@pytest.fixture
def server() -> Iterator[LikeServer]:
    with LikeServer() as server:
        yield server


@pytest.fixture
async def likes(server: LikeServer) -> AsyncIterator[AsyncLikes]:
    likes = AsyncLikes(server.address)
    yield likes
    server.gate.set()
    await likes.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, a batch counts as travelling until it returns."""
    monkeypatch.setattr("likering.client.lane._PATIENCE", 60.0)


async def arrivals(server: LikeServer, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(server.arrived.acquire, timeout=20)


async def test_calls_of_one_tick_travel_as_one_in_their_order(server: LikeServer, likes: AsyncLikes) -> None:
    changed = await asyncio.gather(
        *(likes.like(f"u{number % 90}", "p") for number in range(100)), likes.unlike("u1", "p")
    )
    assert changed == [True] * 90 + [False] * 10 + [True]
    assert server.methods() == ["MutateLikes"]
    mutations = server.calls[0][1].mutations
    assert [mutation.user_id for mutation in mutations][:92] == [f"u{number % 90}" for number in range(92)]
    intents = [mutation.intent_time.ToNanoseconds() for mutation in mutations]
    assert intents == sorted(set(intents))


async def test_a_call_that_is_alone_does_not_wait(server: LikeServer, likes: AsyncLikes) -> None:
    for number in range(3):
        assert await likes.like(f"u{number}", "p") is True
    assert [len(request.mutations) for _, request in server.calls] == [1, 1, 1]


@pytest.mark.usefixtures("patient")
async def test_calls_gather_while_batches_travel(server: LikeServer, likes: AsyncLikes) -> None:
    server.gate.clear()
    calls = []
    for number in range(BATCHES_IN_FLIGHT):
        calls.append(asyncio.create_task(likes.like(f"early{number}", "p")))
        await arrivals(server, 1)
    for tick in range(5):
        calls += [asyncio.create_task(likes.like(f"u{tick}.{number}", "p")) for number in range(60)]
        await asyncio.sleep(0)
    assert len(server.calls) == BATCHES_IN_FLIGHT
    server.gate.set()
    assert await asyncio.gather(*calls) == [True] * (BATCHES_IN_FLIGHT + 300)
    assert [len(request.mutations) for _, request in server.calls] == [1] * BATCHES_IN_FLIGHT + [300]


async def test_a_burst_leaves_as_several_batches(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(*(likes.like(f"u{number}", "p") for number in range(1000)))
    sizes = sorted(len(request.mutations) for _, request in server.calls)
    assert sizes == [1000 - 2 * WRITES_OF_BATCH, WRITES_OF_BATCH, WRITES_OF_BATCH]
    assert await likes.like_count("p") == 1000


async def test_counts_travel_as_one_page_and_each_post_once(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(likes.like("u1", "p1"), likes.like("u2", "p1"), likes.like("u1", "p2"))
    server.calls.clear()
    counts = await asyncio.gather(*(likes.like_count(f"p{number % 4}") for number in range(50)))
    assert counts == [[0, 2, 1, 0][number % 4] for number in range(50)]
    ((method, request),) = server.calls
    assert (method, list(request.post_ids)) == ("GetLikeSummaries", ["p0", "p1", "p2", "p3"])


async def test_a_page_holds_two_hundred_posts(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(*(likes.like_count(f"p{number}") for number in range(450)))
    assert sorted(len(request.post_ids) for _, request in server.calls) == [50, 200, 200]


async def test_one_count_is_asked_for_as_one(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(likes.like_count("p"), likes.like_count("p"))
    assert server.methods() == ["GetLikeCount"]


async def test_reads_of_different_freshness_do_not_mix(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(
        *(likes.like_count(post, consistency=freshness) for post in "ab" for freshness in Consistency)
    )
    assert sorted(request.consistency for _, request in server.calls) == [1, 2, 3]


async def test_the_users_of_a_post_are_asked_for_together(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(*(likes.like(f"u{number}", "p") for number in range(0, 10, 2)))
    server.calls.clear()
    liked = await asyncio.gather(*(likes.has_liked(f"u{number % 10}", "p") for number in range(20)))
    assert liked == [number % 2 == 0 for number in range(20)]
    ((method, request),) = server.calls
    assert (method, len(request.user_ids)) == ("FilterLikers", 10)


async def test_the_posts_of_a_user_are_asked_for_together(server: LikeServer, likes: AsyncLikes) -> None:
    await asyncio.gather(*(likes.like("u", f"p{number}") for number in range(0, 10, 2)))
    server.calls.clear()
    liked = await asyncio.gather(*(likes.has_liked("u", f"p{number}") for number in range(10)))
    assert liked == [number % 2 == 0 for number in range(10)]
    ((method, request),) = server.calls
    assert (method, request.viewer_user_id, len(request.post_ids)) == ("GetLikeSummaries", "u", 10)


async def test_what_has_nothing_in_common_is_asked_for_one_by_one(
    server: LikeServer, likes: AsyncLikes
) -> None:
    edges = [("u1", "p1"), ("u2", "p1"), ("u1", "p2"), ("u1", "p3"), ("u3", "p4"), ("u3", "p1")]
    await asyncio.gather(*(likes.like(user, post) for user, post in edges[::2]))
    server.calls.clear()
    liked = await asyncio.gather(*(likes.has_liked(user, post) for user, post in edges))
    assert liked == [True, False] * 3
    assert Counter(server.methods()) == {"FilterLikers": 1, "GetLikeSummaries": 1, "HasLiked": 1}


@pytest.mark.usefixtures("patient")
async def test_not_all_of_those_travel_at_a_time(server: LikeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likering.client.batches._SINGLE_READS", 3)
    likes = AsyncLikes(server.address, timeout=20)
    server.gate.clear()
    calls = asyncio.gather(*(likes.has_liked(f"u{n}", f"p{n}") for n in range(10)))
    await arrivals(server, 3)
    assert not await asyncio.to_thread(server.arrived.acquire, timeout=0.1)
    server.gate.set()
    assert await calls == [False] * 10
    assert server.methods() == ["HasLiked"] * 10
    await likes.close()


async def test_a_version_asked_for_travels_alone(server: LikeServer, likes: AsyncLikes) -> None:
    await likes.like("u", "p")
    assert await likes.like_count("p", min_version=1) == 1
    assert await likes.has_liked("u", "p", min_version=1) is True
    assert (await likes.get_like_count("p", min_version=1)).version == 1
    with pytest.raises(VersionAhead):
        await likes.like_count("p", min_version=2)
    assert server.methods()[1:] == ["GetLikeCount", "HasLiked", "GetLikeCount", "GetLikeCount"]


async def test_a_wrong_call_fails_alone_and_names_its_own_fields(
    server: LikeServer, likes: AsyncLikes
) -> None:
    far = 2**52
    answers = await asyncio.gather(
        likes.like("u1", "p"),
        likes.like("", "p"),
        likes.unlike("u", "\ud800"),
        likes.like("u", "p", intent_time=far),
        likes.like(5, "p"),  # type: ignore[arg-type]
        likes.like("u2", "p"),
        likes.has_liked("u1", ""),
        likes.like_count("p", consistency=9),  # type: ignore[arg-type]
        likes.apply(Mutation("u", "p", 7)),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    errors = [answer for answer in answers if isinstance(answer, LikeringError)]
    assert [type(error) for error in errors] == [
        IdEmpty,
        IdNotPrintable,
        IntentInFuture,
        IdEmpty,
        EnumUnknown,
        EnumUnknown,
    ]
    fields = [error.violations[0].field for error in errors]
    assert fields == ["user_id", "post_id", "intent_time", "post_id", "consistency", "action"]
    assert isinstance(answers[4], TypeError)
    assert (answers[0], answers[5]) == (True, True)
    assert [mutation.user_id for mutation in server.calls[0][1].mutations] == ["u1", "u", "u2"]


async def test_the_full_result_is_to_be_had(likes: AsyncLikes) -> None:
    first, second = await asyncio.gather(
        likes.apply(Mutation.like("u1", "p")), likes.apply(Mutation.like("u1", "p"))
    )
    assert (first.outcome, second.outcome) == (Outcome.CHANGED, Outcome.UNCHANGED)
    assert first.like_count is not None
    assert (first.like_count.post_id, first.like_count.count, first.like_count.version) == ("p", 1, 1)
    assert (await likes.get_like_count("p")).version == 1


async def test_a_failure_fails_all_with_an_exception_each(server: LikeServer, likes: AsyncLikes) -> None:
    server.faults.append(InternalError())
    answers = await asyncio.gather(*(likes.like(f"u{n}", "p") for n in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [InternalError] * 5
    assert len({id(answer) for answer in answers}) == 5


async def test_a_passing_failure_is_tried_again_with_the_same_intents(
    server: LikeServer, likes: AsyncLikes
) -> None:
    server.faults.extend([ShardUnavailable(), RouterOverloaded(retry_after=0.01)])
    assert await asyncio.gather(*(likes.like(f"u{n}", "p") for n in range(5))) == [True] * 5
    first, second, third = (request for _, request in server.calls)
    assert first == second == third


async def test_retries_stop_when_the_tokens_are_spent(server: LikeServer) -> None:
    async with AsyncLikes(server.address, retry=RetryPolicy(tokens=4, initial_backoff=0.001)) as likes:
        server.faults.extend(ShardUnavailable() for _ in range(10))
        with pytest.raises(ShardUnavailable):
            await likes.like("u", "p")
    assert len(server.calls) == 2


async def test_a_shard_that_is_away_fails_only_its_own_posts(server: LikeServer, likes: AsyncLikes) -> None:
    server.unreachable = {"p1"}
    counts = await asyncio.gather(*(likes.like_count(f"p{n}") for n in range(3)), return_exceptions=True)
    liked = await asyncio.gather(*(likes.has_liked("u", f"p{n}") for n in range(3)), return_exceptions=True)
    for answers in (counts, liked):
        assert [type(answer) is ShardUnavailable for answer in answers] == [False, True, False]


@pytest.mark.usefixtures("patient")
async def test_a_caller_who_gives_up_before_departure_is_not_sent(
    server: LikeServer, likes: AsyncLikes
) -> None:
    server.gate.clear()
    travelling = []
    for number in range(BATCHES_IN_FLIGHT):
        travelling.append(asyncio.create_task(likes.like(f"early{number}", "p")))
        await arrivals(server, 1)
    impatient, patient = (asyncio.create_task(likes.like(user, "p")) for user in ("impatient", "patient"))
    await asyncio.sleep(0)
    impatient.cancel()
    server.gate.set()
    assert await asyncio.gather(*travelling, patient) == [True] * (BATCHES_IN_FLIGHT + 1)
    assert impatient.cancelled()
    assert [mutation.user_id for mutation in server.calls[-1][1].mutations] == ["patient"]


async def test_a_caller_who_gives_up_on_the_way_harms_nobody(server: LikeServer, likes: AsyncLikes) -> None:
    server.gate.clear()
    impatient, patient = (asyncio.create_task(likes.like(user, "p")) for user in ("impatient", "patient"))
    await arrivals(server, 1)
    impatient.cancel()
    server.gate.set()
    assert await patient is True


@pytest.mark.usefixtures("patient")
async def test_the_deadline_counts_from_the_call_even_if_it_never_leaves(server: LikeServer) -> None:
    likes = AsyncLikes(server.address, timeout=0.3)
    server.gate.clear()
    travelling = []
    for number in range(BATCHES_IN_FLIGHT):
        travelling.append(asyncio.create_task(likes.like(f"early{number}", "p")))
        await arrivals(server, 1)
    waiting = [asyncio.create_task(likes.like(f"u{number}", "p")) for number in range(3)]
    answers = await asyncio.wait_for(asyncio.gather(*travelling, *waiting, return_exceptions=True), 20)
    assert [type(answer) for answer in answers] == [DeadlineExceeded] * (BATCHES_IN_FLIGHT + 3)
    server.gate.set()
    await likes.close()


async def test_closing_waits_for_the_answers(server: LikeServer) -> None:
    likes = AsyncLikes(server.address)
    server.gate.clear()
    travelling = asyncio.gather(likes.like("u", "p"), likes.get_like("v", "p"))
    await arrivals(server, 2)
    waiting = asyncio.create_task(likes.like("w", "p"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(likes.close())
    await asyncio.sleep(0)
    with pytest.raises(ClientClosed):
        await likes.like("x", "p")
    assert not closing.done()
    server.gate.set()
    await closing
    first, state = await travelling
    assert (first, state.liked, state.like_time) == (True, False, None)
    assert await waiting is True
    with pytest.raises(ClientClosed):
        await likes.mutate([Mutation.like("u", "p")])
    await likes.close()


async def test_closing_waits_for_calls_that_travel_alone(server: LikeServer) -> None:
    likes = AsyncLikes(server.address)
    server.gate.clear()
    call = asyncio.create_task(likes.get_like("u", "p"))
    await arrivals(server, 1)
    closing = asyncio.create_task(likes.close())
    await asyncio.wait({closing}, timeout=0.1)
    assert not closing.done()
    server.gate.set()
    await closing
    assert (await call).liked is False


async def test_memory_answers_as_a_cluster_does() -> None:
    async with AsyncLikes() as likes:
        assert await asyncio.gather(*(likes.like(f"u{n % 2}", "p") for n in range(3))) == [True, True, False]
        assert await likes.unlike("u1", "p") is True
        assert await likes.has_liked("u0", "p") is True
        assert await likes.like_count("p") == 1
        assert (await likes.apply(Mutation("u1", "p", Action.LIKE))).changed
        with pytest.raises(IdEmpty):
            await likes.like("", "p")
    with pytest.raises(ClientClosed):
        await likes.like("u", "p")


async def test_one_client_may_be_made_before_the_loop_runs(server: LikeServer) -> None:
    made = AsyncLikes(server.address)

    async def use() -> bool:
        async with made as likes:
            return await likes.like("u", "p")

    assert await asyncio.to_thread(lambda: asyncio.run(use())) is True
