"""StreamLikeEvents at the router: streams of nodes are merged, and followed wherever their slots go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import time_ns
from typing import Any, cast

import pytest
from grpc import StatusCode

from likering.cursors import FROM_NOW, Cursors, Standing
from likering.errors import CursorExpired, InternalError, WrongCluster
from likering.serving.status import from_rpc_error
from likering.shard.v1 import shard_service_pb2 as shard
from likering.v1 import like_service_pb2 as api
from router import events
from router.dispatch import Dispatch
from router.events import MergedFeed
from router.node_client import NodeClient
from tests.parts.fake_router import refusal, router
from tests.parts.fake_shard import CLUSTER, SLOTS, fake_shards, topology_of
from tests.parts.stubs import like_stub
from tests.parts.until import until

CURSORS = Cursors(CLUSTER, SLOTS)
NOT_OWNER = shard.OP_CODE_NOT_OWNER


def page(
    *users: str, positions: dict[int, int], gone: tuple[int, ...] = (), topology_version: int = 1
) -> shard.StreamChangesResponse:
    """Events of these users, and where the slots stand then."""
    response = shard.StreamChangesResponse(
        topology_version=topology_version, slots=positions, positions=positions.values()
    )
    for user in users:
        response.events.add(user_id=user, post_id="p")
    if gone:
        response.codes.extend(NOT_OWNER if slot in gone else shard.OP_CODE_UNSPECIFIED for slot in positions)
    return response


def asked(request: shard.StreamChangesRequest) -> dict[int, tuple[int, int]]:
    """Slot → epoch and position."""
    return {
        slot: (epoch, position)
        for slot, epoch, position in zip(request.slots, request.epochs, request.positions, strict=True)
    }


async def following(stream: Any) -> api.StreamLikeEventsResponse:
    """The next response."""
    async with asyncio.timeout(20):
        response: api.StreamLikeEventsResponse = await stream.read()
    return response


def positions_of(cursor: str) -> dict[int, int]:
    return CURSORS.read(cursor).positions


def users(response: api.StreamLikeEventsResponse) -> list[str]:
    return [event.user_id for event in response.events]


async def test_streams_of_nodes_are_merged_and_each_batch_has_its_cursor() -> None:
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        cursor = CURSORS.make({slot: 100 + slot for slot in range(SLOTS)})
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(cursor=cursor, max_batch=7))
        first = await following(stream)
        assert (users(first), first.cursor, first.slot_count) == ([], cursor, SLOTS)
        await until(lambda: len(a.streams) == len(b.streams) == 1)
        assert asked(a.streams[0]) == {slot: (1, 100 + slot) for slot in range(0, SLOTS, 2)}
        assert asked(b.streams[0]) == {slot: (1, 100 + slot) for slot in range(1, SLOTS, 2)}
        assert (a.streams[0].max_batch, a.streams[0].cluster_id) == (7, CLUSTER)
        a.changes.put_nowait(page("u1", "u2", positions={0: 200, 2: 210}))
        second = await following(stream)
        assert users(second) == ["u1", "u2"]
        b.changes.put_nowait(page(positions={3: 300}))  # nothing to tell of, but further on
        b.changes.put_nowait(page("u3", positions={1: 310}))
        third = await following(stream)
        assert users(third) == ["u3"]
        stands = {slot: 100 + slot for slot in range(SLOTS)} | {0: 200, 2: 210, 3: 300, 1: 310}
        assert positions_of(third.cursor) == stands
        stream.cancel()


@pytest.mark.parametrize(("wanted", "sent"), [(0, 1000), (2000, 2000), (2**31 - 1, 2000)])
async def test_batches_have_a_default_and_a_limit(wanted: int, sent: int) -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(max_batch=wanted))
        await until(lambda: bool(a.streams))
        assert a.streams[0].max_batch == sent
        assert {position for _, position in asked(a.streams[0]).values()} == {0}
        stream.cancel()


async def test_from_now_has_no_cursor_before_each_node_has_said_where_that_is() -> None:
    async with fake_shards("a", "b") as (a, b), router(a, b) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(from_now=True))
        reading = asyncio.ensure_future(following(stream))
        await until(lambda: bool(a.streams and b.streams))
        assert {position for _, position in asked(a.streams[0]).values()} == {FROM_NOW}
        a.changes.put_nowait(page(positions={0: 10, 2: 10, 4: 10}))
        await until(lambda: len(a.streams) == 2)  # again, for the one that was not told of
        assert asked(a.streams[1]) == {6: (1, FROM_NOW)}
        # What has changed meanwhile comes again with a cursor before it.
        a.changes.put_nowait(page("u1", positions={6: 20, 0: 15}))
        assert not reading.done()
        b.changes.put_nowait(page(positions=dict.fromkeys(range(1, SLOTS, 2), 30)))
        first = await reading
        stands = {0: 10, 2: 10, 4: 10, 6: 20} | dict.fromkeys(range(1, SLOTS, 2), 30)
        assert (users(first), positions_of(first.cursor)) == ([], stands)
        await until(lambda: len(a.streams) == 3)
        assert {slot: position for slot, (_, position) in asked(a.streams[2]).items()} == {
            slot: stands[slot] for slot in (0, 2, 4, 6)
        }
        stream.cancel()


async def test_the_new_owner_goes_on_where_the_old_one_has_ended() -> None:
    dispatch = Dispatch()
    async with fake_shards("a", "b") as (a, b), router(a, b, dispatch=dispatch) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest())
        await following(stream)
        await until(lambda: bool(a.streams and b.streams))
        b.changes.put_nowait(page("b1", positions={1: 50}))
        assert users(await following(stream)) == ["b1"]
        # The topology changes first, and the old owner still has something to tell.
        owners = {slot: (b if slot in (0, 1, 3, 5, 7) else a) for slot in range(SLOTS)}
        dispatch.use(topology_of(owners, version=2, epochs={0: 2}))
        a.changes.put_nowait(page("a1", positions={0: 60, 2: 70}))
        assert users(await following(stream)) == ["a1"]
        a.changes.put_nowait(page("a2", positions={0: 61}, gone=(0,)))
        assert users(await following(stream)) == ["a2"]
        await until(lambda: len(b.streams) == 2)
        assert asked(b.streams[1]) == {0: (2, 61), 1: (1, 50), 3: (1, 0), 5: (1, 0), 7: (1, 0)}
        # The first stream of b has been given up, and gets what is next; it comes to nobody.
        b.changes.put_nowait(page("lost", positions={1: 51}))
        b.changes.put_nowait(page("b2", positions={0: 62, 1: 52}))
        a.changes.put_nowait(page("a3", positions={2: 71}))
        seen: list[str] = []
        while {"b2", "a3"} - set(seen):
            response = await following(stream)
            seen += users(response)
        stands = positions_of(response.cursor)
        assert (stands[0], stands[1], stands[2]) == (62, 52, 71)
        assert len(a.streams) == 1
        stream.cancel()


class Node:
    """A node's client whose streams send what a test gives them."""

    connected = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[shard.StreamChangesRequest] = []
        self.pages: list[asyncio.Queue[shard.StreamChangesResponse]] = []

    async def stream_changes(
        self, request: shard.StreamChangesRequest
    ) -> AsyncGenerator[shard.StreamChangesResponse, None]:
        self.requests.append(request)
        self.pages.append(asyncio.Queue())
        pages = self.pages[-1]
        while True:
            yield await pages.get()


class Owners:
    """The owner of each slot, as a test says."""

    topology_version = 1
    cluster_id = CLUSTER
    slot_count = SLOTS

    def __init__(self, owners: dict[int, Node]) -> None:
        self.owners = owners
        self.pulse = asyncio.Event()

    def owner_of_slot(self, slot: int) -> tuple[NodeClient | None, int]:
        return cast(NodeClient, self.owners[slot]), 1

    def refresh_soon(self) -> None:
        pass


async def test_what_a_given_up_stream_had_sent_already_does_not_come_twice() -> None:
    """It would with its first likes, which consumers tell of once."""
    a, b = Node("a"), Node("b")
    owners = Owners({0: a, 1: b})
    feed = MergedFeed(owners, Standing({0: 0, 1: 0}), 10, "request")
    async with aclosing(feed.responses(CURSORS)) as responses:
        await anext(responses)
        await until(lambda: bool(a.requests and b.requests))
        owners.owners[0] = b
        a.pages[0].put_nowait(page("a1", positions={0: 7}, gone=(0,)))
        assert users(await anext(responses)) == ["a1"]
        # Not handed on before b's stream is begun anew: for the slot that comes to it.
        b.pages[0].put_nowait(page("b1 of the old stream", positions={1: 5}))
        await until(lambda: len(b.requests) == 2)
        assert asked(b.requests[1]) == {0: (1, 7), 1: (1, 0)}
        b.pages[1].put_nowait(page("b1", positions={1: 5}))
        response = await anext(responses)
        assert (users(response), positions_of(response.cursor)) == (["b1"], {0: 7, 1: 5})


async def test_a_slot_that_nobody_wants_is_asked_for_again() -> None:
    """By a node that has not heard of the topology yet."""
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(slots=[3]))
        await following(stream)
        for attempt in range(3):
            await until(lambda: len(a.streams) == attempt + 1)  # noqa: B023
            a.changes.put_nowait(page(positions={3: 0}, gone=(3,)))
            a.changes.put_nowait(None)
        await until(lambda: len(a.streams) == 4)
        a.changes.put_nowait(page("u", positions={3: 5}))
        assert users(await following(stream)) == ["u"]
        stream.cancel()


async def test_a_stream_that_ends_or_breaks_is_begun_again_after_what_it_had_told() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(slots=[3]))
        await following(stream)
        ends: tuple[Exception | None, ...] = (None, WrongCluster())
        for number, end in enumerate(ends):
            a.changes.put_nowait(page(f"u{number}", positions={3: number + 1}))
            a.changes.put_nowait(end)
            assert users(await following(stream)) == [f"u{number}"]
            await until(lambda: len(a.streams) == number + 2)  # noqa: B023
            assert asked(a.streams[-1]) == {3: (1, number + 1)}
        await a.stop(grace=0)
        while not a.changes.empty():
            a.changes.get_nowait()
        await a.start(a.address)
        a.changes.put_nowait(page("u9", positions={3: 9}))
        assert users(await following(stream)) == ["u9"]
        assert asked(a.streams[-1]) == {3: (1, 2)}
        stream.cancel()


async def test_the_time_at_which_a_consumer_began_is_told_to_nodes_and_stays_in_its_cursors() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        before = time_ns() // 1000
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest())
        first = await following(stream)
        await until(lambda: bool(a.streams))
        began = a.streams[0].began
        assert before <= began <= time_ns() // 1000
        stream.cancel()
        again = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(cursor=first.cursor))
        assert CURSORS.read((await following(again)).cursor).began == began
        await until(lambda: len(a.streams) == 2)
        assert a.streams[1].began == began
        again.cancel()


async def test_a_cursor_that_has_expired_is_refused_with_what_the_node_says() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        cursor = CURSORS.make({3: 1}, 2)
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(cursor=cursor))
        await following(stream)
        a.changes.put_nowait(CursorExpired(metadata={"slot": "3"}))
        error = await refusal(following(stream))
        assert (type(error), error.code, error.metadata) == (
            CursorExpired,
            StatusCode.OUT_OF_RANGE,
            {"slot": "3"},
        )


async def test_a_bug_of_a_node_ends_the_stream() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest())
        await following(stream)
        a.changes.put_nowait(InternalError())
        error = await refusal(following(stream))
        assert error.reason == "INTERNAL"


async def test_a_bug_of_the_routing_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the nodes are still asked where "now" is, when nothing else would ever come."""
    monkeypatch.setattr(events, "PROGRESS_INTERVAL", 0.01)
    feed = MergedFeed(cast("Dispatch", None), Standing({0: FROM_NOW}), 10, "r")
    async with asyncio.timeout(20), aclosing(feed.responses(CURSORS)) as responses:
        with pytest.raises(AttributeError):
            await anext(responses)


async def test_a_consumer_that_does_not_read_holds_up_the_nodes() -> None:
    """Whatever a node could send: it is asked for no more than some batches and what the connections hold."""
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(slots=[3]))
        await following(stream)
        pages = 400
        for number in range(pages):
            a.changes.put_nowait(page(*["u" * 100] * 1000, positions={3: number + 1}))
        left = -1
        while left != a.changes.qsize():
            left = a.changes.qsize()
            await asyncio.sleep(0.3)  # as long as nothing moves any more
        assert left > pages // 2
        seen = 0
        while seen < pages * 1000:
            seen += len((await following(stream)).events)
        stream.cancel()


async def test_when_the_consumer_leaves_the_nodes_are_left() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest())
        await following(stream)
        await until(lambda: bool(a.streams))
        stream.cancel()
        assert a._server is not None
        (service,) = a._server._services
        await until(lambda: service.in_progress == 0)


async def test_a_cursor_of_another_cluster_is_refused() -> None:
    async with fake_shards("a") as (a,), router(a) as channel:
        cursor = Cursors("another", SLOTS).make({0: 1})
        stream = like_stub(channel).StreamLikeEvents(api.StreamLikeEventsRequest(cursor=cursor))
        with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
            await following(stream)
        assert from_rpc_error(caught.value).reason == "CURSOR_INVALID"  # type: ignore[arg-type]
        assert a.streams == []
