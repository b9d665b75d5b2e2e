"""Random sequences on posts of one slot while it moves there and back and its owner dies: no like becomes another's.

Posts have numbers that go where their slot goes, and likes name them by these: of all there is to compare, each list of
each post and of each user says whether the two have come apart.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Final
from uuid import uuid4

import grpc
import pytest

from likering import LikeTracker, Mutation, MutationResult
from likering.admin.v1 import like_admin_service_pb2 as api
from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.dev import part as supervision
from likering.dev.cluster import EmbeddedCluster
from likering.ring.hashing import slot_of
from likering.topology.moves import ENDED
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from tests.parts.apply_move import apply

pytestmark = pytest.mark.timeout(300)

SLOTS: Final = 4
SLOT: Final = 2
PATIENCE: Final = 30.0
USERS: Final = ("7", "1793", "07", "u", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "18446744073709551615")
"""Numbers of which one's bytes begin as the other's, and other kinds of ids."""
POSTS: Final = 9
"""To begin with; each step of likes has one more."""
_numbers = count(time.time_ns())


def fresh_post() -> str:
    """An id of the slot that nobody has used before: a number, a UUID or another."""
    while True:
        number = next(_numbers)
        post = (str(number), str(uuid4()), f"post-{number}")[number % 3]
        if slot_of(post, SLOTS) == SLOT:
            return post


class Target:
    """A cluster of two nodes, and its slot that moves."""

    def __init__(self, cluster: EmbeddedCluster, likes: LikeTracker, admin: LikeAdminServiceStub) -> None:
        self.cluster = cluster
        self.likes = likes
        self.admin = admin

    def owner(self) -> str:
        """Of the slot."""
        return asyncio.run(self._owner())

    async def _owner(self) -> str:
        store = PostgresTopologyStore(self.cluster.topology_dsn)
        try:
            owner = (await store.get()).owners[SLOT]
        finally:
            await store.close()
        assert owner is not None
        return owner

    def move(self) -> None:
        """To the other node; until all of the move is over."""
        asyncio.run(self._move())

    async def _move(self) -> None:
        (target,) = self.cluster.nodes.keys() - {await self._owner()}
        number = await apply(self.cluster.topology_dsn, SLOT, target)
        moves = PostgresMoveStore(self.cluster.topology_dsn)
        try:
            async with asyncio.timeout(PATIENCE):
                while (await moves.move(number)).state not in ENDED:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.05)
            assert (await moves.move(number)).target == await self._owner()
        finally:
            await moves.close()

    def kill_owner(self) -> None:
        """By SIGKILL; it is started again, and callers wait for it."""
        self.cluster.kill(self.owner(), "node", signal.SIGKILL)


class Run:
    """One run, with posts of its own and users whom others have, too; ``liked`` is what has to be."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._choose = random.Random(seed)
        self._posts = [fresh_post() for _ in range(POSTS)]
        self.liked: set[tuple[str, str]] = set()

    def step(self) -> None:
        """One of all that may happen, moves and deaths the more rarely."""
        steps = (self._like, self._unlike, self._bring_in, self._look, self._purge_post)
        rare = (self._purge_user, self._target.move, self._target.move, self._target.kill_owner)
        step = self._choose.choice((*steps * 2, *rare))
        print(step.__name__, sorted(self.liked))  # noqa: T201 - shown when it fails
        step()

    def _edges(self) -> list[tuple[str, str]]:
        users, posts = self._choose.choices(USERS, k=20), self._choose.choices(self._posts, k=20)
        return list(zip(users, posts, strict=True))[: self._choose.randint(1, 20)]

    def _like(self) -> None:
        self._posts.append(fresh_post())
        edges = self._edges()
        results = self._target.likes.mutate([Mutation.like(*edge) for edge in edges])
        assert changed(edges, results) == set(edges) - self.liked
        self.liked.update(edges)

    def _unlike(self) -> None:
        edges = self._edges()
        results = self._target.likes.mutate([Mutation.unlike(*edge) for edge in edges])
        assert changed(edges, results) == set(edges) & self.liked
        self.liked.difference_update(edges)

    def _bring_in(self) -> None:
        """What was taken back here is not brought back."""
        edges = self._edges()
        answer = self._target.admin.ImportLikes(
            api.ImportLikesRequest(
                user_ids=[user for user, _ in edges],
                post_ids=[post for _, post in edges],
                like_times=[1_400_000_000_000_000 + n // 3 for n in range(len(edges))],
            ),
            timeout=PATIENCE,
        )
        for edge, outcome in zip(edges, answer.outcomes, strict=True):
            if outcome == api.IMPORT_OUTCOME_INSERTED:
                assert edge not in self.liked
                self.liked.add(edge)
            else:
                assert outcome == api.IMPORT_OUTCOME_EXISTING

    def _purge_post(self) -> None:
        post = self._choose.choice(self._posts)
        list(self._target.admin.PurgePost(api.PurgePostRequest(post_id=post), timeout=PATIENCE))
        self.liked = {edge for edge in self.liked if edge[1] != post}

    def _purge_user(self) -> None:
        user = self._choose.choice(USERS)
        list(self._target.admin.PurgeUser(api.PurgeUserRequest(user_id=user), timeout=PATIENCE))
        self.liked = {edge for edge in self.liked if edge[0] != user}

    def _look(self) -> None:
        """At all posts as their lists have them."""
        likes = self._target.likes
        for post in self._posts:
            users = [like.user_id for like in likes.likers(post, page_size=4)]
            assert sorted(users) == sorted(user for user, one in self.liked if one == post), post
            assert likes.like_count(post) == len(users)
            assert likes.filter_likers(post, USERS) == [user for user in USERS if user in users]

    def end(self) -> None:
        """The lists of users follow after a moment."""
        self._look()
        deadline = time.monotonic() + PATIENCE
        for user in USERS:
            expected = sorted(post for one, post in self.liked if one == user)
            while (found := self._listed(user)) != expected and time.monotonic() < deadline:
                time.sleep(0.05)
            assert found == expected, user

    def _listed(self, user: str) -> list[str]:
        listed = [like.post_id for like in self._target.likes.liked_posts(user, page_size=5)]
        return sorted(post for post in listed if post in self._posts)


def changed(edges: Sequence[tuple[str, str]], results: Sequence[MutationResult]) -> set[tuple[str, str]]:
    """Those of the edges that a mutation has changed."""
    assert [result.error for result in results if result.error] == []
    return {edge for edge, result in zip(edges, results, strict=True) if result.changed}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Whoever dies twice in a short time waits before the next start; here dying is no sign of trouble.
        patch.setattr(supervision, "_STEADY_SECONDS", 0.0)
        cluster = stack.enter_context(
            EmbeddedCluster(tmp_path_factory.mktemp("sequences"), nodes=2, slots=SLOTS)
        )
        asyncio.run(_hurry(cluster.topology_dsn))
        likes = stack.enter_context(LikeTracker(cluster.address, timeout=PATIENCE))
        channel = stack.enter_context(grpc.insecure_channel(cluster.admin_address))
        yield Target(cluster, likes, LikeAdminServiceStub(channel))


async def _hurry(dsn: str) -> None:
    moves = PostgresMoveStore(dsn)
    await moves.set_limits(grace_seconds=0, pause_budget_ms=4000)
    await moves.close()


@pytest.mark.parametrize("seed", range(4))
def test_likes_stay_with_their_posts_wherever_the_slot_goes(target: Target, seed: int) -> None:
    run = Run(target, seed)
    for _ in range(40):
        run.step()
    target.move()
    run.end()
