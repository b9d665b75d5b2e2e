"""A shard node without databases: a real gRPC server whose answers a test decides, and that remembers each batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from google.protobuf.message import Message

from likering.ring.hashing import slot_of
from likering.ring.topology import Node, NodeState, Topology
from likering.security.access import Access
from likering.serving.handlers import Call, ServiceHandlers
from likering.serving.server import Server, ServerSettings
from likering.shard.v1 import shard_service_pb2 as shard
from tests.parts.fake_watches import FakeWatches

CLUSTER = "11111111-1111-1111-1111-111111111111"
SLOTS = 8

Answering = Callable[[shard.ExecuteRequest, shard.ExecuteResponse], None]
"""Changes the answer that the shard would give, or raises."""


class FakeShard:
    """Keeps edges in memory. ``epochs``: the slots it owns; others are answered NOT_OWNER."""

    def __init__(self, name: str, epochs: Mapping[int, int] | None = None) -> None:
        self.name = name
        self.epochs = dict(epochs) if epochs is not None else dict.fromkeys(range(SLOTS), 1)
        self.batches: list[shard.ExecuteRequest] = []
        self.callers: list[str] = []
        """Of each batch, where the shard asks for certificates."""
        self.topology: Topology | None = None
        self.topology_version = 1
        self.open = asyncio.Event()
        """Cleared: batches wait."""
        self.open.set()
        self.answering: list[Answering] = []
        """Each is applied to one batch and gone."""
        self.lists: list[shard.ListLikersRequest] = []
        self.list_codes: list[shard.OpCode.ValueType] = []
        """Each is what one list is answered with."""
        self.liked: dict[str, dict[str, int]] = {}
        self.liked_lists: list[shard.ListLikedPostsRequest] = []
        self.liked_by: dict[str, dict[str, int]] = {}
        """User → post → revision, as ListLikedPosts tells it."""
        self.versions: dict[str, int] = {}
        self.watches = FakeWatches(lambda post_id, epoch: self.epochs.get(slot_of(post_id, SLOTS)) == epoch)
        self.streams: list[shard.StreamChangesRequest] = []
        self.changes: asyncio.Queue[shard.StreamChangesResponse | Exception | None] = asyncio.Queue()
        """What streams send, one after the other; None ends one, and an error fails one."""
        self._server: Server | None = None

    @property
    def address(self) -> str:
        assert self._server is not None
        return self._server.address

    async def start(self, listen: str = "127.0.0.1:0", access: Access | None = None) -> None:
        service = shard.DESCRIPTOR.services_by_name["ShardService"]
        handlers = ServiceHandlers(service, self, guard=access.guard if access is not None else None)
        self._server = Server([handlers], ServerSettings(max_message_bytes=4 << 20), access)
        await self._server.start(listen)
        await self._server.set_serving(True)

    async def _never(self, request: Message, call: Call) -> Message:
        raise AssertionError(f"no router sends {type(request).__name__}")

    async def ListLikedPosts(
        self, request: shard.ListLikedPostsRequest, call: Call
    ) -> shard.ListLikedPostsResponse:
        self.liked_lists.append(request)
        code = self.list_codes.pop(0) if self.list_codes else shard.OP_CODE_UNSPECIFIED
        if self.epochs.get(slot_of(request.user_id, SLOTS)) != request.epoch:
            code = shard.OP_CODE_NOT_OWNER
        response = shard.ListLikedPostsResponse(code=code, topology_version=self.topology_version)
        if not code:
            liked = sorted(
                ((rev, post) for post, rev in self.liked_by.get(request.user_id, {}).items()), reverse=True
            )
            before = (request.before, request.below_post_id)
            page = [place for place in liked if place < before][: request.limit]
            response.like_times.extend([rev for rev, _ in page])
            response.post_ids.extend([post for _, post in page])
        return response

    ApplyUserLikes = _never
    DescribeSource = FreezeSlot = UnfreezeSlot = StopReads = SlowWrites = GetInventory = GetLoad = _never

    async def stop(self, grace: float = 5.0) -> None:
        assert self._server is not None
        await self._server.drain(delay=0, grace=grace)

    @property
    def operations(self) -> list[tuple[int, str, str]]:
        """(kind, post, user) of all batches, in order of arrival."""
        return [
            operation
            for batch in self.batches
            for operation in zip(batch.kinds, batch.post_ids, batch.user_ids, strict=True)
        ]

    async def Execute(self, request: shard.ExecuteRequest, call: Call) -> shard.ExecuteResponse:
        self.batches.append(request)
        self.callers.append(call.caller)
        answering = self.answering.pop(0) if self.answering else None
        await self.open.wait()
        response = shard.ExecuteResponse(
            topology_version=self.topology_version, as_of_time=time.time_ns() // 1000
        )
        for kind, post_id, user_id, epoch in zip(
            request.kinds, request.post_ids, request.user_ids, request.epochs, strict=True
        ):
            self._execute(kind, post_id, user_id, epoch, response)
        if answering is not None:
            answering(request, response)
        return response

    async def ListLikers(self, request: shard.ListLikersRequest, call: Call) -> shard.ListLikersResponse:
        self.lists.append(request)
        await self.open.wait()
        code = self.list_codes.pop(0) if self.list_codes else shard.OP_CODE_UNSPECIFIED
        if self.epochs.get(slot_of(request.post_id, SLOTS)) != request.epoch:
            code = shard.OP_CODE_NOT_OWNER
        response = shard.ListLikersResponse(code=code, topology_version=self.topology_version)
        if not code:
            users = self.liked.get(request.post_id, {})
            newest_first = sorted(((rev, user) for user, rev in users.items()), reverse=True)
            before = (request.before_time, request.before)
            page = [(rev, user) for rev, user in newest_first if (rev, rev) < before][: request.limit]
            response.revs.extend([rev for rev, _ in page])
            response.like_times.extend([rev for rev, _ in page])
            response.user_ids.extend([user for _, user in page])
            response.count, response.version = len(users), self.versions.get(request.post_id, 0)
        return response

    async def WatchCounts(
        self, request: shard.WatchCountsRequest, call: Call
    ) -> AsyncGenerator[shard.WatchCountsResponse, None]:
        async with aclosing(self.watches.stream(request)) as responses:
            async for response in responses:
                yield response

    async def UpdateWatch(self, request: shard.UpdateWatchRequest, call: Call) -> shard.UpdateWatchResponse:
        return await self.watches.update(request, self.topology_version)

    async def StreamChanges(
        self, request: shard.StreamChangesRequest, call: Call
    ) -> AsyncGenerator[shard.StreamChangesResponse, None]:
        self.streams.append(request)
        while (change := await self.changes.get()) is not None:
            if isinstance(change, Exception):
                raise change
            yield change

    async def GetTopology(self, request: shard.GetTopologyRequest, call: Call) -> shard.GetTopologyResponse:
        assert self.topology is not None
        return shard.GetTopologyResponse(topology=self.topology.to_json())

    def _execute(
        self, kind: int, post_id: str, user_id: str, epoch: int, response: shard.ExecuteResponse
    ) -> None:
        users = self.liked.setdefault(post_id, {})
        code, outcome = shard.OP_CODE_UNSPECIFIED, shard.OP_OUTCOME_UNSPECIFIED
        if self.epochs.get(slot_of(post_id, SLOTS)) != epoch:
            code = shard.OP_CODE_NOT_OWNER
        elif kind == shard.OP_KIND_HAS_LIKED:
            outcome = shard.OP_OUTCOME_LIKED if user_id in users else shard.OP_OUTCOME_NOT_LIKED
        elif kind != shard.OP_KIND_COUNT:
            like = kind == shard.OP_KIND_LIKE
            outcome = shard.OP_OUTCOME_UNCHANGED
            if like is not (user_id in users):
                outcome = shard.OP_OUTCOME_CHANGED
                self.versions[post_id] = self.versions.get(post_id, 0) + 1
                if like:
                    users[user_id] = time.time_ns() // 1000
                else:
                    del users[user_id]
        response.codes.append(code)
        response.outcomes.append(outcome)
        counted = kind != shard.OP_KIND_HAS_LIKED
        response.counts.append(len(users) if counted else 0)
        response.versions.append(self.versions.get(post_id, 0) if counted else 0)
        response.like_times.append(0 if counted else users.get(user_id, 0))
        cached = kind == shard.OP_KIND_COUNT
        response.sources.append(shard.COUNT_SOURCE_CACHE if cached else shard.COUNT_SOURCE_UNSPECIFIED)


def failing(code: shard.OpCode.ValueType) -> Answering:
    """All operations of the batch answer with a code."""

    def answer(request: shard.ExecuteRequest, response: shard.ExecuteResponse) -> None:
        operations = len(request.kinds)
        response.codes[:] = [code] * operations
        response.outcomes[:] = [shard.OP_OUTCOME_UNSPECIFIED] * operations

    return answer


def topology_of(
    owners: Mapping[int, FakeShard | None] | FakeShard,
    *,
    version: int = 1,
    epochs: Mapping[int, int] | None = None,
    nodes: Sequence[FakeShard] = (),
    addresses: Mapping[str, str] | None = None,
    generation: int = 1,
) -> Topology:
    """A topology of started shards. ``owners``: one of them for each slot, or one for all."""
    by_slot = owners if isinstance(owners, Mapping) else dict.fromkeys(range(SLOTS), owners)
    shards = {owner.name: owner for owner in (*by_slot.values(), *nodes) if owner is not None}
    names = [owner.name if (owner := by_slot.get(slot)) else None for slot in range(SLOTS)]
    return Topology(
        cluster_id=CLUSTER,
        version=version,
        slot_count=SLOTS,
        nodes={
            name: Node(
                name, name, (addresses or {}).get(name) or fake.address, 1, NodeState.ACTIVE, generation
            )
            for name, fake in shards.items()
        },
        owners=tuple(names),
        epochs=tuple((epochs or {}).get(slot, 1) if names[slot] else 0 for slot in range(SLOTS)),
    )


def post_in(slot: int, number: int = 0) -> str:
    """A post id of that slot."""
    found = -1
    for candidate in range(100_000):
        if slot_of(f"p{candidate}", SLOTS) == slot:
            found += 1
            if found == number:
                return f"p{candidate}"
    raise AssertionError(f"no post for slot {slot}")


@asynccontextmanager
async def fake_shards(*names: str) -> AsyncIterator[list[FakeShard]]:
    """Started shards."""
    shards = [FakeShard(name) for name in names]
    for fake in shards:
        await fake.start()
    try:
        yield shards
    finally:
        for fake in shards:
            fake.open.set()
            await fake.stop(grace=0.5)
