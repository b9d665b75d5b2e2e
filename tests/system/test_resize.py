"""Nodes come and go while likes flow: no call fails, no answer is contradicted, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest

from likering.dev.cluster import EmbeddedCluster
from likering.errors import MoveCommitted
from likering.ring.plan import Plan
from likering.topology.moves import SETTLED, UNCOMMITTED, MoveState, SlotMove
from shard_node.handoff.replication import SEAL
from tests.parts.callers import BULK, CALLS, Callers
from tests.parts.oracle import judged
from tests.parts.resizing import Resizing

pytestmark = pytest.mark.timeout(180)

SLOTS = 32
CALLERS = 20
RATE = 1200
MOST = 60_000


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster of this module's own: its nodes come and go."""
    directory = tmp_path_factory.mktemp("growing")
    with EmbeddedCluster(directory, nodes=3, slots=SLOTS, router_workers=2) as cluster:
        yield cluster


@pytest.fixture
async def resizing(growing: EmbeddedCluster) -> AsyncIterator[Resizing]:
    """The cluster's stores, with the limits of the tests: many moves at once, and no copy is kept."""
    async with Resizing(growing) as resizing:
        await resizing.moves.set_limits(
            paused=False, slots_at_once=4, rows_per_second=0, pause_budget_ms=1000, grace_seconds=0
        )
        yield resizing
        # What a test that failed has left must not fail the next one.
        left = [move.move for move in await resizing.moves.moves() if move.state in UNCOMMITTED]
        with suppress(MoveCommitted):
            await resizing.moves.cancel(left, "test")
        await resizing.moves.set_limits(paused=False)
        await resizing.settled()


def load(cluster: EmbeddedCluster, seed: str, *, bulk: bool = False, rate: float = RATE) -> Callers:
    """Callers of all kinds, fewer calls in a second than the machine could do."""
    calls = BULK if bulk else CALLS
    return Callers(
        cluster.address,
        callers=CALLERS,
        seed=seed,
        posts=40,
        timeout=10.0,
        rate=rate,
        most=MOST,
        connections=4,
        calls=calls,
    )


async def assert_all_is_well(resizing: Resizing, callers: Callers) -> None:
    """Answers, databases and catalogs agree."""
    problems = await resizing.check(callers)
    assert not problems, judged(problems, callers.seed)
    assert callers.acknowledged > 500


def assert_few_moved(moves: list[SlotMove], plan: Plan) -> None:
    """No more than the least that there can be, and all of them arrived."""
    assert plan.minimum <= len(moves) <= 1.02 * plan.minimum
    assert {move.state for move in moves} <= {MoveState.VERIFIED, MoveState.RETIRED}


async def assert_balanced(resizing: Resizing, *names: str) -> None:
    """Each of these nodes holds floor or ceiling of its share, and the others nothing."""
    owners = Counter(owner for owner, _ in (await resizing.placement()).owners)
    assert set(owners) == set(names)
    assert set(owners.values()) <= {SLOTS // len(names), -(-SLOTS // len(names))}


async def test_a_cluster_grows_and_shrinks_under_load(growing: EmbeddedCluster, resizing: Resizing) -> None:
    """3 → 4 → 5 nodes, and back to 3."""
    async with load(growing, "resize 1") as callers:
        await callers.more(2000)
        for name in ("d", "e"):
            await resizing.add(name)
            resize, plan = await resizing.begin()
            assert_few_moved(await resizing.settled(resize), plan)
            await assert_balanced(resizing, *growing.nodes)
        await callers.more(1000)
        await resizing.drain("d", "e")
        resize, plan = await resizing.begin()
        assert_few_moved(await resizing.settled(resize), plan)
        await assert_balanced(resizing, "a", "b", "c")
        await callers.more(1000)
        await callers.stop()
    await assert_all_is_well(resizing, callers)


async def test_moves_are_cancelled_at_any_moment(growing: EmbeddedCluster, resizing: Resizing) -> None:
    """Each one that is not committed ends at once; slots stay with their owners, or have moved all the same."""
    chance = random.Random("resize 2")
    cancelled = 0
    async with load(growing, "resize 2") as callers:
        await callers.more(500)
        await resizing.add("d", "e")
        for names in (("d", "e"), ("a", "b", "c")) * 3:
            weights = {name: 1 if name in names else 6 for name in ("a", "b", "c", "d", "e")}
            resize, _ = await resizing.begin(weights)
            while True:
                moves = await resizing.moves.moves(resize=resize)
                open_ = [move.move for move in moves if move.state in UNCOMMITTED]
                if not open_:
                    break
                under_way = [move.move for move in moves if move.state not in (*SETTLED, MoveState.PLANNED)]
                try:
                    (move,) = await resizing.moves.cancel([chance.choice(under_way or open_)], "test")
                except MoveCommitted:
                    pass
                else:
                    cancelled += move.state is MoveState.CANCELLED
                await callers.more(chance.randrange(1, 60))
            await resizing.settled(resize)
        await callers.stop()
    assert cancelled > 20
    await assert_all_is_well(resizing, callers)


async def test_moves_are_paused_and_resumed(growing: EmbeddedCluster, resizing: Resizing) -> None:
    """While they are paused no slot changes its owner, whatever has begun; afterwards all arrive."""
    async with load(growing, "resize 3") as callers:
        await resizing.add("d", "e")
        resize, _ = await resizing.begin({name: 1 if name in "de" else 5 for name in "abcde"})
        await resizing.settled(resize)
        resize, _ = await resizing.begin({name: 5 if name in "de" else 1 for name in "abcde"})
        for some in (1, 5):
            await resizing.reached(resize, partial(_arrived, some), 60)
            await resizing.moves.set_limits(paused=True)
            # What was past its freeze goes on, and each node hears of the pause; then nothing moves any more.
            await resizing.reached(resize, partial(_at_rest, datetime.now(UTC)), 60)
            owners = (await resizing.placement()).owners
            await callers.more(2000)
            assert (await resizing.placement()).owners == owners
            await resizing.moves.set_limits(paused=False)
        moves = await resizing.settled(resize)
        assert {move.state for move in moves} <= {MoveState.VERIFIED, MoveState.RETIRED}
        await callers.stop()
    await assert_all_is_well(resizing, callers)


def _at_rest(since: datetime, moves: Collection[SlotMove]) -> bool:
    """No move goes on: each has ended, or not begun, or has said since then that it waits."""
    return all(
        move.state in (*SETTLED, MoveState.PLANNED)
        or (
            move.state is MoveState.CATCHING_UP
            and move.waits_for == "moves are paused"
            and move.word_at > since
        )
        for move in moves
    )


def _arrived(some: int, moves: Collection[SlotMove]) -> bool:
    return sum(move.state in SETTLED for move in moves) >= some


async def test_lists_and_bursts_while_slots_move(growing: EmbeddedCluster, resizing: Resizing) -> None:
    """A thousand mutations of many slots in one call, hundreds of calls at once, and any slot may move under them."""
    async with load(growing, "resize 4", bulk=True, rate=300) as callers:
        await resizing.add("d", "e")
        for light in ("abc", "de", "abc"):
            await callers.more(2000)
            resize, _ = await resizing.begin({name: 1 if name in light else 5 for name in "abcde"})
            await asyncio.gather(resizing.settled(resize), callers.more(8000))
        await callers.stop()
    await assert_all_is_well(resizing, callers)


async def test_changes_arrive_late(growing: EmbeddedCluster, resizing: Resizing) -> None:
    """Rows get stuck on their way to the target while the slot is frozen: the freeze is aborted, and tried again."""
    async with load(growing, "resize 5", rate=800) as callers:
        await resizing.add("d", "e")
        await resizing.drain("d", "e")
        resize, _ = await resizing.begin()
        await resizing.settled(resize)
        async with slow_arrivals(growing.nodes["d"].postgres_dsn):
            await resizing.add("d")
            await resizing.moves.set_limits(pause_budget_ms=200)
            resize, plan = await resizing.begin({"a": 3, "b": 3, "c": 3, "d": 2})
            moves = await resizing.settled(resize, 90)
            assert_few_moved(moves, plan)
            assert all(move.attempt > 1 for move in moves)
        await callers.more(1000)
        await callers.stop()
    await assert_all_is_well(resizing, callers)


@asynccontextmanager
async def slow_arrivals(dsn: str) -> AsyncIterator[None]:
    """The seal of each move's first freeze takes a second to arrive at this node, and all rows behind it wait."""
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, options="-csearch_path=likering"
    ) as connection:
        await connection.execute(_SLOW_ARRIVALS)
        try:
            yield
        finally:
            # Not dropped: that would lock the tables in another order than the moves that go on.
            await connection.execute(_AS_EVER)


_AS_EVER = """
CREATE OR REPLACE FUNCTION seal_came() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
"""
_SLOW_ARRIVALS = f"""
CREATE FUNCTION seal_came() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(1);
    RETURN NEW;
END $$;
CREATE TRIGGER seal_came BEFORE INSERT ON seals FOR EACH ROW
    WHEN (NEW.probe = {SEAL} AND NEW.attempt = 1) EXECUTE FUNCTION seal_came();
ALTER TABLE seals ENABLE REPLICA TRIGGER seal_came;
"""
