"""Whoever dies while a post or a user is purged or counts are mended, and wherever the slot goes: the same end.

Each test lets the owner of a slot stand still at a step, and ends its process or moves the slot there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest

from likering import AsyncLikes, Mutation
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.errors import PostBeingPurged, UserBeingPurged
from likering.ring.hashing import slot_of
from likering.serving.status import from_rpc_error
from shard_node.packed_ids import pack
from tests.parts.one_handoff import SLOTS, Handoff, connect

if TYPE_CHECKING:
    from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceAsyncStub

pytestmark = pytest.mark.timeout(120)

USERS = [f"user-{number:03}" for number in range(70)]
"""Several pieces: a node at failpoints takes twenty rows at once."""


class Purged:
    """A post of the slot that moves, with likes of all users."""

    def __init__(
        self, handoff: Handoff, name: str, likes: AsyncLikes, admin: LikeAdminServiceAsyncStub
    ) -> None:
        self._handoff = handoff
        self.likes = likes
        self.admin = admin
        self.post = next(
            post for number in range(1000) if slot_of(post := f"{name}-{number}", SLOTS) == handoff.slot
        )

    async def purge(self) -> api.PurgeReceipt:
        """As an operator does: the call is repeated when it fails."""
        for _ in range(10):
            try:
                async for response in self.admin.PurgePost(api.PurgePostRequest(post_id=self.post)):
                    for receipt in response.receipts:
                        return receipt
            except grpc.aio.AioRpcError as failure:
                if from_rpc_error(failure).code is not grpc.StatusCode.UNAVAILABLE:
                    raise
        raise AssertionError("no receipt")

    async def refuses_likes(self) -> None:
        with pytest.raises(PostBeingPurged):
            await self.likes.like("late", self.post)

    async def row(self, node: str) -> tuple[Any, ...] | None:
        """Version, count, mark, edges."""
        async with await connect(self._handoff.cluster.nodes[node].postgres_dsn) as connection:
            cursor = await connection.execute(
                "SELECT version, like_count, purge_began,"
                " (SELECT count(*) FROM edges WHERE (edges.slot, edges.post_no) = (posts.slot, posts.post_no))"
                " FROM posts WHERE post_id = %s",
                [pack(self.post)],
            )
            return await cursor.fetchone()


@asynccontextmanager
async def operator(handoff: Handoff) -> AsyncIterator[LikeAdminServiceAsyncStub]:
    async with grpc.aio.insecure_channel(handoff.cluster.admin_address) as channel:
        yield cast("LikeAdminServiceAsyncStub", LikeAdminServiceStub(channel))


@pytest.fixture
async def purged(handoff: Handoff, request: pytest.FixtureRequest) -> AsyncIterator[Purged]:
    """With seventy likes."""
    async with operator(handoff) as admin, AsyncLikes(handoff.cluster.address, timeout=15.0) as likes:
        purged = Purged(handoff, request.node.name, likes, admin)
        await likes.mutate([Mutation.like(user, purged.post) for user in USERS])
        yield purged


@pytest.mark.parametrize("step", ["purge begun", "likes ended", "edges erased", "purge ended"])
async def test_the_owner_dies_while_it_erases(handoff: Handoff, purged: Purged, step: str) -> None:
    """Its next process knows of the purge, and the call that waited is brought to its end."""
    handoff.failpoints.arm(handoff.source, step)
    purging = asyncio.create_task(purged.purge())
    await handoff.failpoints.held(handoff.source)
    handoff.kill(handoff.source)
    if step != "purge ended":
        await purged.refuses_likes()
    receipt = await purging
    assert receipt.edges_erased == len(USERS)
    assert receipt.version == 2 * len(USERS)
    assert await purged.row(handoff.source) == (receipt.version, 0, None, 0)
    assert await purged.likes.like_count(purged.post) == 0
    assert await purged.likes.like("new", purged.post)


@pytest.mark.parametrize("step", ["likes ended", "edges erased"])
async def test_the_slot_moves_while_it_is_erased(handoff: Handoff, purged: Purged, step: str) -> None:
    """The mark goes with it: the new owner refuses likes and goes on, and the copies are found equal."""
    await handoff.begin_until(handoff.target, "catching_up")
    handoff.failpoints.arm(handoff.source, step)
    purging = asyncio.create_task(purged.purge())
    await handoff.failpoints.held(handoff.source)
    # The purge stands still in the source's process; the target takes over as soon as that goes on.
    handoff.release(handoff.target)
    handoff.release(handoff.source)
    receipt = await purging
    await handoff.ends()
    assert receipt.edges_erased == len(USERS)
    assert receipt.version == 2 * len(USERS)
    assert await purged.row(handoff.target) == (receipt.version, 0, None, 0)
    assert await purged.row(handoff.source) is None


async def test_a_purge_that_nobody_goes_on_with_moves_with_its_slot(handoff: Handoff, purged: Purged) -> None:
    """Half erased: the new owner refuses likes, and a repeated call ends it there before the copies are compared."""
    handoff.failpoints.arm(handoff.source, "edges erased")
    purging = asyncio.create_task(purged.purge())
    await handoff.failpoints.held(handoff.source)
    purging.cancel()
    await asyncio.wait((purging,))
    await handoff.kill_and_await(handoff.source)
    await handoff.begin_until(handoff.target, "active")
    handoff.release(handoff.target)
    await purged.refuses_likes()
    receipt = await purged.purge()
    assert receipt.node == handoff.target
    await handoff.ends()
    assert receipt.edges_erased == len(USERS)
    assert receipt.version == 2 * len(USERS)


@pytest.mark.parametrize("step", ["measured", "mended"])
async def test_the_owner_dies_while_it_mends_counts(handoff: Handoff, purged: Purged, step: str) -> None:
    """A count is mended once, whoever dies when."""
    (version, count, *_) = await purged.row(handoff.source) or ()
    async with await connect(handoff.cluster.nodes[handoff.source].postgres_dsn) as connection:
        await connection.execute(
            "UPDATE posts SET like_count = like_count + 3 WHERE post_id = %s", [pack(purged.post)]
        )
    handoff.failpoints.arm(handoff.source, step)

    async def repair() -> list[api.CountRepair]:
        request = api.RepairCountsRequest(slots=[handoff.slot])
        return [one async for response in purged.admin.RepairCounts(request) for one in response.repairs]

    repairing = asyncio.create_task(repair())
    await handoff.failpoints.held(handoff.source)
    handoff.kill(handoff.source)
    await repairing
    assert (await purged.row(handoff.source) or ())[:2] == (version + 1, count)
    assert await repair() == []
    assert await purged.likes.like_count(purged.post) == count


class PurgedUser:
    """Of the slot that moves, as some of the posts; likes all of them, as another user does."""

    def __init__(
        self, handoff: Handoff, name: str, likes: AsyncLikes, admin: LikeAdminServiceAsyncStub
    ) -> None:
        self._handoff = handoff
        self._likes = likes
        self._admin = admin
        self.user = next(
            user for number in range(1000) if slot_of(user := f"{name}-{number}", SLOTS) == handoff.slot
        )
        candidates = [f"{name}-post-{number}" for number in range(300)]
        self.posts = [post for post in candidates if slot_of(post, SLOTS) == handoff.slot][:25]
        self.posts += [post for post in candidates if slot_of(post, SLOTS) != handoff.slot][:25]

    async def like_all(self) -> None:
        users = (self.user, f"{self.user}-stays")
        await self._likes.mutate([Mutation.like(user, post) for user in users for post in self.posts])
        await self._likes.unlike(self.user, self.posts[0])

    async def purge(self) -> list[api.UserPurgeReceipt]:
        """As an operator does: the call is repeated when it fails."""
        for _ in range(10):
            try:
                async for response in self._admin.PurgeUser(api.PurgeUserRequest(user_id=self.user)):
                    if response.receipts:
                        return list(response.receipts)
            except grpc.aio.AioRpcError as failure:
                if from_rpc_error(failure).code is not grpc.StatusCode.UNAVAILABLE:
                    raise
        raise AssertionError("no receipt")

    async def is_refused(self) -> None:
        """In its own slot and elsewhere, likes and unlikes."""
        for post in (self.posts[0], self.posts[-1]):
            with pytest.raises(UserBeingPurged):
                await self._likes.like(self.user, post)
        with pytest.raises(UserBeingPurged):
            await self._likes.unlike(self.user, "never-liked")

    async def is_gone(self) -> None:
        """From both sides of all nodes, with exact counts, the other user's likes as they were, and may come back."""
        left: list[int] = []
        for node in self._handoff.cluster.nodes.values():
            async with await connect(node.postgres_dsn) as connection:
                cursor = await connection.execute(
                    "SELECT (SELECT count(*) FROM edges WHERE user_id = %(packed)s),"
                    " (SELECT count(*) FROM user_likes WHERE user_id = %(packed)s),"
                    " (SELECT count(*) FROM posts WHERE position(%(packed)s IN post_id) > 1"
                    "  AND purge_began IS NOT NULL)",
                    {"packed": pack(self.user)},
                )
                left += await cursor.fetchone() or ()
        assert left == [0] * 3 * len(self._handoff.cluster.nodes)
        page = await self._likes.summaries(self.posts, f"{self.user}-stays")
        # Each was liked twice, and once no longer: by the purge, or, the first, by an unlike.
        seen = {
            (one.like_count.count, one.like_count.version, one.viewer_has_liked) for one in page.summaries
        }
        assert seen == {(1, 3, True)}
        assert await self._likes.like(self.user, self.posts[0])


@pytest.fixture
async def purged_user(handoff: Handoff, request: pytest.FixtureRequest) -> AsyncIterator[PurgedUser]:
    """With fifty likes, one of which is undone."""
    async with operator(handoff) as admin, AsyncLikes(handoff.cluster.address, timeout=15.0) as likes:
        purged = PurgedUser(handoff, request.node.name, likes, admin)
        await purged.like_all()
        yield purged


@pytest.mark.parametrize("step", ["user's likes ended", "user's edges erased", "user released"])
async def test_an_owner_dies_while_it_erases_a_user(
    handoff: Handoff, purged_user: PurgedUser, step: str
) -> None:
    """Its next process knows of the purge, and the call that waited is brought to its end."""
    handoff.failpoints.arm(handoff.source, step)
    purging = asyncio.create_task(purged_user.purge())
    await handoff.failpoints.held(handoff.source)
    handoff.kill(handoff.source)
    if step != "user released":
        await purged_user.is_refused()
    receipts = await purging
    assert sum(one.edges_erased for one in receipts) == len(purged_user.posts)
    assert sum(one.slots for one in receipts) == SLOTS
    await purged_user.is_gone()
    await handoff.callers.stop()
    await handoff.users_told()


async def test_a_slot_moves_while_a_user_is_erased(handoff: Handoff, purged_user: PurgedUser) -> None:
    """The new owner goes on, and the copies are found equal."""
    handoff.failpoints.arm(handoff.source, "user's likes ended")
    purging = asyncio.create_task(purged_user.purge())
    await handoff.failpoints.held(handoff.source)
    # Marked, with half of the likes ended: so it is copied, and the purge goes on while the slot changes its owner.
    moving = asyncio.create_task(handoff.begin_until(handoff.target, "catching_up"))
    handoff.release(handoff.source)
    await moving
    handoff.release(handoff.target)
    receipts = await purging
    assert sum(one.edges_erased for one in receipts) == len(purged_user.posts)
    # Not before: until then the copy that is not served yet lags behind.
    await handoff.ends()
    await purged_user.is_gone()


async def test_a_user_that_nobody_goes_on_erasing_moves_with_the_slot(
    handoff: Handoff, purged_user: PurgedUser
) -> None:
    """Half erased: the new owner refuses the user, and a repeated call ends it there."""
    handoff.failpoints.arm(handoff.source, "user's likes ended")
    purging = asyncio.create_task(purged_user.purge())
    await handoff.failpoints.held(handoff.source)
    purging.cancel()
    await asyncio.wait((purging,))
    await handoff.kill_and_await(handoff.source)
    await handoff.begin_until(handoff.target, "active")
    handoff.release(handoff.target)
    await purged_user.is_refused()
    receipts = await purged_user.purge()
    assert sum(one.edges_erased for one in receipts) == len(purged_user.posts)
    # Not before: until then the copy that is not served yet lags behind.
    await handoff.ends()
    await purged_user.is_gone()
