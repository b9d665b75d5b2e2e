"""Whatever bytes a caller sends to whatever call, it is told that they are wrong, and nothing else happens.

Each method gets some hundred odd messages. A quarter of an hour finds a leak of 1 KB a message, too:

    LIKERING_ODD_MESSAGES=10000 scripts/test tests/system/test_odd_messages.py

LIKERING_ODD_SEED=2 sends others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor

from likering import LikeTracker, Mutation
from likering.admin.v1 import like_admin_service_pb2 as admin_api
from likering.admin.v1 import ring_service_pb2 as ring_api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.dev.cluster import EmbeddedCluster
from likering.v1 import like_service_pb2 as api
from tests.parts.barrage import Barrage, pids, resident
from tests.parts.cluster_logs import complaints
from tests.parts.odd_messages import Known, OddMessages

MESSAGES: Final = int(os.environ.get("LIKERING_ODD_MESSAGES", "100"))
SEED: Final = int(os.environ.get("LIKERING_ODD_SEED", "1"))
SLOTS: Final = 8
TIMEOUT: Final = 30.0
NOISE: Final = 6_000_000
"""Bytes by which a process may grow whatever it was sent."""
KEPT: Final = 800
"""Bytes a message by which it may grow if that is more."""

pytestmark = pytest.mark.timeout(60 + MESSAGES // 10)

LAST: Final = ("PurgePost", "PurgeUser", "DrainNode", "ApplyPlan")
"""What the others would suffer from."""
METHODS: Final = sorted(
    (
        method
        for service in (
            api.DESCRIPTOR.services_by_name["LikeService"],
            admin_api.DESCRIPTOR.services_by_name["LikeAdminService"],
            ring_api.DESCRIPTOR.services_by_name["RingService"],
        )
        for method in service.methods
    ),
    key=lambda method: method.name in LAST,
)


class Target:
    """A cluster that nobody else uses, with likes, tokens of all kinds, and moves that are planned and never begin."""

    def __init__(self, cluster: EmbeddedCluster, operators: grpc.Channel) -> None:
        self.cluster = cluster
        self._ring, self._admin = RingServiceStub(operators), LikeAdminServiceStub(operators)
        self.pids = pids(cluster)
        users, posts = ([f"{kind}-{number}" for number in range(8)] for kind in ("user", "post"))
        with LikeTracker(cluster.address, timeout=30.0) as likes:
            likes.mutate([Mutation.like(user, post) for user in users for post in posts])
            tokens = [
                likes.list_likers(posts[0], page_size=2).next_page_token,
                likes.list_likers(posts[1], page_size=1).next_page_token,
            ]
            tokens += [next(likes.events(slots=slots)).cursor for slots in ((), (1, 2))]
            while not (page := likes.list_liked_posts(users[0], page_size=1)).next_page_token:
                pass  # what users like is told after the like
            tokens.append(page.next_page_token)
        for slots in ((), (0, 3)):
            export = self._admin.ExportLikes(admin_api.ExportLikesRequest(slots=slots), timeout=TIMEOUT)
            tokens.append(next(export).cursor)
            export.cancel()
        self.known = Known(users, posts, tokens, list(cluster.nodes), SLOTS, {})
        self.prepare()

    def prepare(self) -> None:
        """Has a plan that can be applied."""
        ring = self._ring
        ring.PauseMoves(ring_api.PauseMovesRequest(), timeout=TIMEOUT)
        if moves := ring.ListMoves(ring_api.ListMovesRequest(), timeout=TIMEOUT).moves:
            numbers = [move.move for move in moves]
            ring.CancelMoves(ring_api.CancelMovesRequest(moves=numbers), timeout=TIMEOUT)
        for name in self.cluster.nodes:
            ring.UndrainNode(ring_api.UndrainNodeRequest(name=name), timeout=TIMEOUT)
        weights = dict(zip(self.cluster.nodes, (1, 7), strict=True))
        plan = ring.PlanResize(ring_api.PlanResizeRequest(weights=weights), timeout=TIMEOUT).plan
        assert plan.moves
        self.known.prepared = {plan.DESCRIPTOR.full_name: plan}

    def drifted(self) -> int:
        """Counts that are not the number of likes."""
        *_, last = self._admin.VerifyCounts(admin_api.VerifyCountsRequest(), timeout=TIMEOUT)
        assert last.progress.slots_done == SLOTS
        return int(last.progress.drifted)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("odd")
    with (
        EmbeddedCluster(directory, nodes=2, slots=SLOTS) as cluster,
        grpc.insecure_channel(cluster.admin_address) as operators,
    ):
        yield Target(cluster, operators)


@pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: f"{method.containing_service.name}-{method.name}"
)
async def test_odd_messages_are_the_callers_fault(target: Target, method: MethodDescriptor) -> None:
    """And leave everything as it is: processes, memory, logs, counts."""
    print(f"LIKERING_ODD_SEED={SEED}")  # noqa: T201 - shown when it fails
    cluster, began = target.cluster, datetime.now(UTC)
    public = method.containing_service.file.package == "likering.v1"
    messages = OddMessages(method.input_type, target.known, SEED)
    async with grpc.aio.insecure_channel(cluster.address if public else cluster.admin_address) as channel:
        barrage = Barrage(channel, method)

        async def send(number: int) -> None:
            # The first good plan makes all others stale.
            step = 10 if method.name == "ApplyPlan" else 200
            for start in range(0, number, step):
                if not public:
                    target.prepare()
                await barrage.send(min(step, number - start), messages.next)

        await send(MESSAGES // 3)  # caches fill, code is used for the first time
        before = resident(cluster)
        await send(MESSAGES)
        after = resident(cluster)
    grown = {name: after[name] - size for name, size in before.items()}
    print(f"{dict(barrage.outcomes)}, bytes more: {grown}")  # noqa: T201 - as above
    assert not barrage.blunders, "\n".join([f"{len(barrage.blunders)} answers", *barrage.blunders[:10]])
    assert pids(cluster) == target.pids
    assert complaints(cluster.directory / "logs", began) == []
    assert target.drifted() == 0
    assert max(grown.values()) < max(NOISE, KEPT * MESSAGES)
