"""Random sequences of operations: each subject answers as the service in memory does.

Some of them for each subject; more of them, and others, with

    LIKERING_SEQUENCES=500 scripts/test tests/conformance/test_random_sequences.py --hypothesis-seed=2
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from likering import (
    Action,
    Consistency,
    LikeringError,
    LikeTracker,
    Mutation,
    MutationResult,
)
from tests.conformance.conftest import Operator
from tests.conformance.subjects import Likes, fresh, memory_of

SEQUENCES: Final = int(os.environ.get("LIKERING_SEQUENCES", "30"))
SECONDS: Final = 20.0
"""After which what a user likes is lost if it is not listed."""
pytestmark = pytest.mark.timeout(60 + 6 * SEQUENCES)

USERS = st.sampled_from(["u0", "ü1", "7", "07", "f47ac10b-58cc-4372-a567-0e02b2c3d479"])
"""Each kind of id is kept in another way."""
POSTS = st.sampled_from(range(3))
ACTIONS = st.sampled_from(list(Action))
CONSISTENCIES = st.sampled_from(list(Consistency))
WHEN = st.one_of(
    st.none(),
    st.integers(-20, 20).map(lambda step: ("near", step)),
    st.sampled_from([("ahead", 30_000_000), ("ahead", 3_600_000_000), ("again", 0), ("ancient", 0)]),
)
"""When an operation is meant: by the client's own stamp; a few µs around the latest intent of the test; so many µs
ahead of now; exactly at the latest intent; long ago."""
OPERATIONS = st.tuples(USERS, POSTS, ACTIONS, WHEN)
BAD_IDS = st.sampled_from(["", "x" * 129, "a\0", "\ud800"])


class Machine(RuleBasedStateMachine):
    """One run: posts that nobody has used before, a subject, and a model that gets the same calls."""

    subject: Likes
    operator: Operator

    def __init__(self) -> None:
        super().__init__()
        self.model = LikeTracker()
        self.posts: list[str] = []
        self.latest = 0
        self.purged = ""

    @initialize()
    def begin(self) -> None:
        self.posts = [fresh("post"), str(random.SystemRandom().randrange(2**63, 2**64)), str(uuid4())]
        # Far enough back that no stamp of a client, which is the present moment, falls among these.
        self.latest = time.time_ns() // 1000 - 10_000_000

    @rule(operation=OPERATIONS)
    def apply(self, operation: tuple[str, int, Action, Any]) -> None:
        mutation = self.meant(*operation)
        self.agree(lambda likes: seen(likes.apply(mutation)))

    @rule(user=USERS, post=POSTS, like=st.booleans())
    def toggle(self, user: str, post: int, like: bool) -> None:
        post_id = self.posts[post]
        self.agree(lambda likes: likes.like(user, post_id) if like else likes.unlike(user, post_id))

    @rule(operations=st.lists(OPERATIONS, min_size=1, max_size=30))
    def mutate(self, operations: list[tuple[str, int, Action, Any]]) -> None:
        mutations = [self.meant(*operation) for operation in operations]
        self.follow(mutations, self.subject.mutate(mutations))

    @rule(operations=st.lists(OPERATIONS, min_size=2, max_size=5), bad=BAD_IDS, as_post=st.booleans())
    def mutate_with_a_wrong_item(
        self, operations: list[tuple[str, int, Action, Any]], bad: str, as_post: bool
    ) -> None:
        mutations = [self.meant(*operation) for operation in operations]
        mutations.insert(1, Mutation.like("u0", bad) if as_post else Mutation.unlike(bad, self.posts[0]))
        results = self.subject.mutate(mutations)
        self.follow(mutations, results)
        assert results[1].error is not None
        field = "post_id" if as_post else "user_id"
        assert [violation.field for violation in results[1].error.violations] == [f"mutations[1].{field}"]

    @rule(operations=st.lists(st.tuples(USERS, POSTS, ACTIONS), min_size=1, max_size=20))
    def single_calls_at_once(self, operations: list[tuple[str, int, Action]]) -> None:
        """Without intents of the test's own: the client stamps them in their order."""
        mutations = [self.meant(*operation, None) for operation in operations]
        self.follow(mutations, self.subject.apply_at_once(mutations))

    @rule(user=USERS, post=POSTS, consistency=CONSISTENCIES)
    def has_liked(self, user: str, post: int, consistency: Consistency) -> None:
        post_id = self.posts[post]
        self.agree(lambda likes: likes.has_liked(user, post_id, consistency=consistency))
        self.agree(lambda likes: likes.get_like(user, post_id, consistency=consistency).like_time is None)

    @rule(post=POSTS, consistency=CONSISTENCIES, behind=st.integers(-1, 3))
    def count(self, post: int, consistency: Consistency, behind: int) -> None:
        """At a version that the post has, or at one that it does not have yet."""
        post_id = self.posts[post]
        version = max(0, self.model.get_like_count(post_id).version - behind)

        def ask(likes: Likes | LikeTracker) -> tuple[int, int]:
            count = likes.get_like_count(post_id, consistency=consistency, min_version=version)
            return count.count, count.version

        self.agree(ask)

    @rule(posts=st.lists(POSTS, min_size=1, max_size=6), viewer=st.none() | USERS, consistency=CONSISTENCIES)
    def summaries(self, posts: list[int], viewer: str | None, consistency: Consistency) -> None:
        post_ids = [self.posts[post] for post in posts]

        def ask(likes: Likes | LikeTracker) -> list[tuple[str, int, int, bool]]:
            return [
                (
                    summary.like_count.post_id,
                    summary.like_count.count,
                    summary.like_count.version,
                    summary.viewer_has_liked,
                )
                for summary in likes.summaries(post_ids, viewer, consistency=consistency)
            ]

        self.agree(ask)

    @rule(post=POSTS, users=st.lists(USERS, min_size=1, max_size=8), consistency=CONSISTENCIES)
    def filter_likers(self, post: int, users: list[str], consistency: Consistency) -> None:
        post_id = self.posts[post]
        self.agree(lambda likes: likes.filter_likers(post_id, users, consistency=consistency))

    @rule(post=POSTS, page_size=st.integers(1, 4))
    def likers(self, post: int, page_size: int) -> None:
        post_id = self.posts[post]

        def ask(likes: Likes | LikeTracker) -> list[str]:
            return [like.user_id for like in likes.likers(post_id, page_size=page_size)]

        self.agree(ask)

    @rule(user=USERS)
    def liked_posts(self, user: str) -> None:
        """What the user likes is told after the like; other runs have the same users."""
        expected = {like.post_id for like in self.model.liked_posts(user)}
        ends = time.monotonic() + SECONDS
        while True:
            listed = [like.post_id for like in self.subject.liked_posts(user) if like.post_id in self.posts]
            if set(listed) == expected or time.monotonic() > ends:
                break
            time.sleep(0.02)
        assert sorted(listed) == sorted(expected)

    @rule(post=POSTS)
    def purge_post(self, post: int) -> None:
        """What comes late, by an intent of before, finds a post that nobody has liked."""
        post_id = self.posts[post]
        for operator in (self.operator, memory_of(self.model)):
            operator.purge_post(post_id)

    @precondition(lambda self: not self.purged)
    @rule(user=USERS)
    def purge_user(self, user: str) -> None:
        """Once at most: it goes through all slots."""
        self.purged = user
        for operator in (self.operator, memory_of(self.model)):
            operator.purge_user(user)

    def meant(self, user: str, post: int, action: Action, when: tuple[str, int] | None) -> Mutation:
        """The mutation with an intent that both sides get alike."""
        if when is None:
            return Mutation(user, self.posts[post], action)
        kind, step = when
        if kind == "near":
            intent = self.latest = self.latest + step
        elif kind == "ahead":
            intent = time.time_ns() // 1000 + step
        else:
            intent = self.latest if kind == "again" else 1
        return Mutation(user, self.posts[post], action, intent)

    def follow(self, mutations: Sequence[Mutation], results: Sequence[MutationResult]) -> None:
        """The results of mutations that travelled together are the model's, one after the other in *some* order.

        Those of different edges are concurrent: their order is the service's choice, which the versions in the answers
        tell. A change to version v comes before all else that is answered with version v. Those of one edge keep
        their order.
        """

        def turn(place: int) -> tuple[str, int, bool, int]:
            count, mutation = results[place].like_count, mutations[place]
            return mutation.post_id, count.version if count else 0, not results[place].changed, place

        last: dict[tuple[str, str], int] = {}
        for place in sorted(range(len(mutations)), key=turn):
            mutation = mutations[place]
            if results[place].error is None:
                edge = mutation.user_id, mutation.post_id
                assert last.get(edge, -1) < place, "mutations of one edge changed places"
                last[edge] = place
            (expected,) = self.model.mutate([mutation])
            assert alone(results[place]) == alone(expected)

    def agree(
        self,
        call: Callable[[Likes | LikeTracker], object],
    ) -> None:
        """Subject and model answer the same, or fail for the same reason and fields."""
        expected = answer(call, self.model)
        assert answer(call, self.subject) == expected


def answer(call: Callable[[Likes | LikeTracker], object], likes: Likes | LikeTracker) -> object:
    try:
        return call(likes)
    except LikeringError as error:
        return type(error), [(violation.field, violation.reason) for violation in error.violations]


def alone(result: MutationResult) -> object:
    """What is the same in a batch of one."""
    return seen(result) if result.error is None else type(result.error)


def seen(result: MutationResult) -> object:
    """What must be the same everywhere."""
    if result.error is not None:
        return type(result.error), [violation.field for violation in result.error.violations]
    assert result.like_count is not None
    return result.outcome, result.like_count.post_id, result.like_count.count, result.like_count.version


def test_random_sequences_agree_with_memory(likes: Likes, operator: Operator) -> None:
    class Sequences(Machine):
        pass

    Sequences.subject, Sequences.operator = likes, operator
    run_state_machine_as_test(
        Sequences,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
