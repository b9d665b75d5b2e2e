"""Group commits on a real Postgres, compared operation by operation with a model that knows no batches."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import OP_CODE_NOT_OWNER, OP_CODE_UNAVAILABLE
from shard_node import edge_store
from shard_node.commit import Batch, commit
from shard_node.post_numbers import PostNumbers
from shard_node.store import Connection, Fence, FenceLost
from tests.integration.like_model import LikeModel
from tests.integration.node_database import NOW, SLOTS, prepared, unit
from tests.parts.stored import EDGES, POSTS

FENCE = Fence(generation=1, slots_seq=1)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    """An empty node database that owns all slots, written by generation 1."""
    async with prepared(database) as connection:
        yield connection


@pytest.fixture
def numbers() -> PostNumbers:
    """What the writer knows of the posts' numbers."""
    return PostNumbers()


async def assert_database_is(connection: Connection, model: LikeModel) -> None:
    """Edges, counts and versions are those of the model, and each count is the number of its liked edges."""
    cursor = await connection.execute(f"SELECT post_id, user_id FROM {EDGES} WHERE liked")
    assert set(await cursor.fetchall()) == model.liked
    cursor = await connection.execute(f"SELECT post_id, user_id FROM {EDGES} WHERE first_rev IS NOT NULL")
    assert set(await cursor.fetchall()) == model.ever_liked
    cursor = await connection.execute(f"SELECT post_id, version, like_count FROM {POSTS} WHERE version > 0")
    assert {row[0]: (row[1], row[2]) for row in await cursor.fetchall()} == {
        post: (version, model.count(post)) for post, version in model.versions.items()
    }
    cursor = await connection.execute("SELECT count(*), count(DISTINCT rev) FROM edges")
    rows, revisions = (await cursor.fetchone()) or (0, 0)
    assert rows == revisions, "two edges have the same revision"


@pytest.mark.parametrize("seed", range(6))
async def test_batches_answer_as_if_each_operation_were_alone(
    connection: Connection, numbers: PostNumbers, seed: int
) -> None:
    """Duplicates, like + unlike + like, late and mixed intents, odd ids, forgotten numbers: 60 batches a seed."""
    chance = random.Random(seed)
    model = LikeModel()
    posts = ["p1", "p2", 'quo"te', "back\\slash", "{brace},", "é🙂", "NULL", " "]
    users = [f"u{n}" for n in range(12)] + ['"', "\\", ","]
    last_rev = NOW
    for _ in range(60):
        # Earlier or later than every revision of the test: which of the two an intent is must not depend on how many
        # revisions a commit takes.
        later = NOW + 10**9
        intents = chance.choice(
            [[0], [0, NOW - 5, later], [later + n for n in range(40)], [NOW - n for n in range(40)]]
        )
        operations = [
            (
                chance.random() < chance.choice([1.0, 0.6]),
                chance.choice(posts),
                chance.choice(users),
                chance.choice(intents),
            )
            for _ in range(chance.choice([1, 2, 5, 30, 80]))
        ]
        batch = Batch(last_rev)
        cuts = sorted({0, len(operations), *(chance.randrange(len(operations) + 1) for _ in range(3))})
        units = [unit(operations[start:end]) for start, end in itertools.pairwise(cuts)]
        for part in units:
            batch.add(part, {})
        if chance.random() < 0.3:
            numbers.keep(())
        await commit(connection, FENCE, batch, numbers)
        batch.answer(OP_CODE_UNAVAILABLE)
        answers = [
            row for part in units for row in zip(part.outcomes, part.versions, part.counts, strict=True)
        ]
        assert batch.last_rev > last_rev
        last_rev = batch.last_rev
        check_answers(model, operations, answers, now=last_rev)
        await assert_database_is(connection, model)


def check_answers(
    model: LikeModel, operations: list[tuple[bool, str, str, int]], answers: list[tuple[Any, ...]], now: int
) -> None:
    """The answers are those of the model for *some* order of the operations that keeps the order of each edge.

    Operations of one batch are concurrent, so their order is the server's choice; the versions that it answers say
    which one it chose: a change of version v comes before everything answered with a version of v or more.
    """
    turn = sorted(
        range(len(operations)), key=lambda n: (operations[n][1], answers[n][1], answers[n][0] != 1, n)
    )
    for n in keep_edge_order(turn, operations, answers):
        like, post_id, user_id, intent = operations[n]
        expected = model.apply(like=like, post_id=post_id, user_id=user_id, intent=intent, now=now)
        assert tuple(answers[n]) == expected, (n, operations[n])


def keep_edge_order(
    turn: list[int], operations: list[tuple[bool, str, str, int]], answers: list[tuple[Any, ...]]
) -> list[int]:
    """``turn``, once it is sure that no edge's operations are in another order than they were asked in."""
    seen: dict[tuple[str, str], int] = {}
    for n in turn:
        edge = operations[n][1:3]
        assert seen.get(edge, -1) < n, "operations of one edge changed places"
        seen[edge] = n
    return turn


async def test_single_likes_of_one_post_count_forward(connection: Connection, numbers: PostNumbers) -> None:
    """A hot post: each like is answered with the version and count right after it."""
    likes = unit([(True, "hot", f"u{n}", 0) for n in range(500)])
    batch = Batch(NOW)
    batch.add(likes, {})
    await commit(connection, FENCE, batch, numbers)
    batch.answer(OP_CODE_UNAVAILABLE)
    assert likes.versions == likes.counts == list(range(1, 501))
    assert not any(likes.codes)


@pytest.mark.parametrize("fence", [Fence(2, 1), Fence(1, 2), Fence(0, 1)])
@pytest.mark.parametrize("operations", [[(True, "p", "u", 0)], [(True, "p", "u", 0), (False, "p", "u", 0)]])
async def test_a_lost_fence_writes_nothing(
    connection: Connection, numbers: PostNumbers, fence: Fence, operations: list[tuple[bool, str, str, int]]
) -> None:
    """Another generation, or other slots, in either form of commit."""
    batch = Batch(NOW)
    batch.add(unit(operations), {})
    with pytest.raises(FenceLost):
        await commit(connection, fence, batch, numbers)
    assert batch.uncommitted == set(range(len(operations)))
    await assert_database_is(connection, LikeModel())
    cursor = await connection.execute("SELECT last_rev FROM writer")
    assert await cursor.fetchone() == (0,)


async def test_refused_operations_spoil_no_other(connection: Connection, numbers: PostNumbers) -> None:
    """What is refused is not executed, and its neighbours are."""
    operations = unit([(True, "p", "u1", 0), (True, "p", "u2", 0), (True, "p", "u3", 0)])
    batch = Batch(NOW)
    batch.add(operations, {1: OP_CODE_NOT_OWNER})
    await commit(connection, FENCE, batch, numbers)
    batch.answer(OP_CODE_UNAVAILABLE)
    assert operations.codes == [0, OP_CODE_NOT_OWNER, 0]
    assert operations.counts == [1, 0, 2]
    model = LikeModel({("p", "u1"), ("p", "u3")}, {("p", "u1"), ("p", "u3")}, {}, {"p": 2})
    await assert_database_is(connection, model)


async def test_the_next_batch_begins_above_what_the_writer_row_says(
    connection: Connection, numbers: PostNumbers
) -> None:
    """Or a reader of the change feed who has seen that row would pass changes that are still to come."""
    last_rev = NOW
    for operations in (
        [(True, "p", "u", 0)],
        [(True, "p", "u", 0)],
        [(True, "p", "v", 0), (False, "p", "u", 0)],
    ):
        batch = Batch(last_rev)
        batch.add(unit(operations), {})
        await commit(connection, FENCE, batch, numbers)
        row = await (await connection.execute("SELECT last_rev FROM writer")).fetchone()
        assert row is not None
        assert batch.last_rev >= row[0]
        last_rev = batch.last_rev


@pytest.mark.parametrize("unlike", [False, True])
async def test_a_like_that_exists_is_not_counted_whether_its_post_is_known_or_not(
    connection: Connection, numbers: PostNumbers, unlike: bool
) -> None:
    """In a batch of likes only, and in one with others. Nor do new posts get a number that another one has."""
    first = Batch(NOW)
    first.add(unit([(True, "p", "u", 0), (True, "q", "u", 0)]), {})
    await commit(connection, FENCE, first, numbers)
    last_rev = first.last_rev
    for known in (True, False):
        if not known:
            numbers.keep(())
        new = f"new {known}"
        operations = [(True, "p", "u", 0), (True, "p", new, 0), (True, new, "u", 0)]
        likes = unit([*operations, (False, "q", "u", 0)] if unlike else operations)
        batch = Batch(last_rev)
        batch.add(likes, {})
        await commit(connection, FENCE, batch, numbers)
        batch.answer(OP_CODE_UNAVAILABLE)
        last_rev = batch.last_rev
        count = 2 if known else 3
        assert likes.counts[:3] == [2, count, 1]
        assert likes.versions[:3] == [2, count, 1]
    cursor = await connection.execute("SELECT count(*), count(DISTINCT (slot, post_no)) FROM posts")
    assert await cursor.fetchone() == (4, 4)


async def test_what_a_read_looked_up_is_known_afterwards(
    connection: Connection, numbers: PostNumbers
) -> None:
    """And the next like of the post counts as it should, as does one of a post that is new. A post that nobody has
    liked stays unknown, and nothing is learned from what was read before something was forgotten."""
    first = Batch(NOW)
    first.add(unit([(True, post, "u", 0) for post in ("p", "q", "r")]), {})
    await commit(connection, FENCE, first, numbers)
    numbers.keep(())
    posts = ["p", "p", "nobody's", "q"]
    slots = {post: slot_of(post, SLOTS) for post in posts}

    async def read() -> dict[int, int]:
        return await edge_store.read_liked(
            connection, posts, ["u", "v", "u", "u"], [slots[post] for post in posts], numbers
        )

    assert await read() == {0: NOW + 1, 3: NOW + 2}
    assert [number is not None for number in numbers.known(slots)] == [True, False, True]
    assert await read() == {0: NOW + 1, 3: NOW + 2}

    likes = unit([(True, "p", "v", 0), (True, "new", "u", 0), (True, "r", "v", 0)])
    batch = Batch(first.last_rev)
    batch.add(likes, {})
    await commit(connection, FENCE, batch, numbers)
    batch.answer(OP_CODE_UNAVAILABLE)
    assert likes.counts == [2, 1, 2]

    numbers.keep(())
    async with connection.pipeline():
        reading = asyncio.create_task(read())
        await asyncio.sleep(0)  # it has asked, and not been answered
        numbers.keep(())
        await reading
    assert numbers.known(slots) == [None, None, None]
