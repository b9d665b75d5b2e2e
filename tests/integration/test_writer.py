"""The writer and its lead on a real Postgres: groups, barriers, slots, take-over, a database that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from likering.dev.postgres import PostgresServer
from likering.errors import ShardOverloaded
from likering.ring.hashing import slot_of
from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_INTENT_IN_FUTURE,
    OP_CODE_NOT_OWNER,
    OP_CODE_STORAGE_FULL,
    OP_CODE_UNAVAILABLE,
    OP_CODE_UNKNOWN_OUTCOME,
    OP_OUTCOME_CHANGED,
)
from shard_node import store
from shard_node import writer as writer_module
from shard_node.commit import Batch, commit
from shard_node.leadership import LEASE, Leadership, LeadershipLost
from shard_node.ownership import Ownership
from shard_node.post_numbers import PostNumbers
from shard_node.store import Connection, Fence
from shard_node.writer import Writer
from tests.integration.node_database import NOW, SLOTS, prepared, unit
from tests.parts.stored import EDGES
from tests.parts.until import until

DEADLINE = 20.0


class Process:
    """What one process of a node has of the writer, without its servers."""

    def __init__(
        self, dsn: str, *, patience: float = 0.6, max_queued: int = 1000, transaction_timeout: float = 5.0
    ) -> None:
        self.generations: list[int] = []
        self.published: list[int] = []
        self.leadership = Leadership(dsn, "a", self.generations.append, patience=patience)
        self.ownership = Ownership(SLOTS)
        self.writer = Writer(
            self.leadership,
            self.ownership,
            self._publish,
            max_queued=max_queued,
            transaction_timeout=transaction_timeout,
        )
        self.running: asyncio.Task[None] | None = None

    async def _publish(self, batch: Batch) -> None:
        self.published.append(len(batch))

    def start(self) -> None:
        """Begins to wait for the lead."""
        self.running = asyncio.create_task(self.writer.run())

    async def leads(self, generations: int = 1) -> None:
        """Returns once the lead was taken so many times."""
        await until(lambda: len(self.generations) >= generations and bool(self.ownership.epochs))

    async def stop(self) -> None:
        """Ends the process' writer."""
        if self.running is not None:
            self.running.cancel()
            await asyncio.wait((self.running,))


@pytest.fixture
async def process(database: str) -> AsyncIterator[Callable[..., Process]]:
    """Makes processes of one node; all end with the test."""
    made: list[Process] = []

    def make(dsn: str = database, **options: float) -> Process:
        made.append(Process(dsn, **options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    async with prepared(database):
        yield make
        for one in made:
            await one.stop()


async def like(process: Process, post: str, user: str, intent: int = 0) -> tuple[int, int, int]:
    """Code, outcome and count of one like."""
    operation = unit([(True, post, user, intent)])
    async with asyncio.timeout(DEADLINE):
        await process.writer.submit(operation)
    return operation.codes[0] if operation.codes else 0, operation.outcomes[0], operation.counts[0]


async def test_what_gathers_while_a_commit_runs_is_one_group(process: Callable[..., Process]) -> None:
    """Units that are queued together are committed and published together."""
    node = process()
    await node.leads()
    units = [unit([(True, "p", f"u{n}", 0)]) for n in range(50)]
    await asyncio.gather(*(node.writer.submit(one) for one in units))
    assert sorted(one.counts[0] for one in units) == list(range(1, 51))
    assert node.published == [50]


async def test_a_change_of_slots_ends_a_rest(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is to write less answers nobody between its commits; what the rest is for does not wait."""
    monkeypatch.setattr(writer_module, "MOST_REST", 3600.0)
    node = process()
    await node.leads()
    node.writer.slow_down(rest=1e9, seconds=3600.0)
    assert (await like(node, "p", "u1"))[1] == OP_OUTCOME_CHANGED
    second = asyncio.create_task(like(node, "p", "u2"))
    third = unit([(True, "p", "u3", 0)])
    node.writer.submit(third)
    assert not (await asyncio.wait((second,), timeout=0.2))[0]

    async def nothing(connection: Connection) -> None:
        pass

    async with asyncio.timeout(DEADLINE):
        await node.writer.change_slots(nothing)
    assert (await second)[1] == OP_OUTCOME_CHANGED
    assert node.published == [1, 2]


async def test_a_job_that_follows_another_waits_while_likes_do(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For many times as long as the other one took; when no likes wait, it does not either."""
    monkeypatch.setattr(writer_module, "JOBS_REST", 1e9)
    monkeypatch.setattr(writer_module, "MAX_BATCH", 1)
    node = process()
    await node.leads()
    committed: list[int] = []

    async def job(connection: Connection, fence: Fence) -> None:
        committed.append(len(node.published))

    likes = [node.writer.submit(unit([(True, "p", f"u{n}", 0)])) for n in range(5)]
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*likes, *(node.writer.write(job) for _ in range(3)))
    assert committed[0] < 5
    assert committed[1:] == [5, 5]


async def test_a_full_queue_refuses_at_once(process: Callable[..., Process]) -> None:
    """Nothing of a refused unit is executed."""
    node = process(max_queued=10)
    await node.leads()
    first = unit([(True, "p", f"u{n}", 0) for n in range(10)])
    done = node.writer.submit(first)
    with pytest.raises(ShardOverloaded) as refusal:
        node.writer.submit(unit([(True, "p", "late", 0)]))
    assert refusal.value.retry_after is not None
    await done
    assert await like(node, "p", "u10") == (0, OP_OUTCOME_CHANGED, 11)


async def test_a_unit_that_was_given_up_before_its_turn_is_not_executed(
    process: Callable[..., Process],
) -> None:
    """Its caller may have sent it again by another way."""
    node = process()
    await node.leads()
    node.writer.submit(unit([(True, "p", "gone", 0)])).cancel()
    assert await like(node, "p", "u1") == (0, OP_OUTCOME_CHANGED, 1)


async def test_other_epochs_and_far_intents_are_refused_alone(process: Callable[..., Process]) -> None:
    """One operation of another epoch and one intent of tomorrow; their neighbour is executed."""
    node = process()
    await node.leads()
    tomorrow = NOW + 10**15
    mixed = unit([(True, "p1", "u", 0), (True, "p2", "u", tomorrow), (True, "p3", "u", 0)])
    mixed.epochs = [2, 1, 1]
    await node.writer.submit(mixed)
    assert mixed.codes == [OP_CODE_NOT_OWNER, OP_CODE_INTENT_IN_FUTURE, 0]
    assert mixed.counts == [0, 0, 1]


async def test_what_is_refused_is_counted_whatever_waits_with_it(process: Callable[..., Process]) -> None:
    """Among others, alone, and with all that waits; it is no write of its slot."""
    node = process()
    await node.leads()
    tally = node.writer.tally
    mixed = unit([(True, "p1", "u", 0), (True, "p2", "u", 0)])
    mixed.epochs = [2, 1]
    await node.writer.submit(mixed)
    assert (tally.operations, tally.slots) == (1, {slot_of("p2", SLOTS): 1})
    alone = unit([(True, "p1", "u", 0)])
    alone.epochs = [2]
    await node.writer.submit(alone)
    assert tally.refused == {"OP_CODE_NOT_OWNER": 2}
    waiting = unit([(True, "p1", f"u{number}", 0) for number in range(3)])
    node.writer.submit(waiting)
    await node.stop()
    assert waiting.codes == [OP_CODE_UNAVAILABLE] * 3
    assert tally.refused == {"OP_CODE_NOT_OWNER": 2, "OP_CODE_UNAVAILABLE": 3}
    assert tally.operations == 1


async def test_a_barrier_needs_a_commit_that_began_later(process: Callable[..., Process]) -> None:
    """It holds while the process leads, and not once another one does."""
    old = process()
    await old.leads()
    assert await old.writer.barrier()
    async with await psycopg.AsyncConnection.connect(old.leadership._conninfo, autocommit=True) as other:
        await store.execute(other, "raise_generation")
    assert not await old.writer.barrier()
    assert old.running is not None
    with pytest.raises(LeadershipLost):
        await old.running


async def test_what_is_refused_proves_nothing(process: Callable[..., Process]) -> None:
    """A batch without anything to execute does not touch the database: it must not prolong the lease."""
    node = process()
    await node.leads()
    proofs: list[float] = []
    node.leadership.proved = proofs.append  # type: ignore[method-assign, assignment]
    stale = unit([(True, "p", "u", 0)])
    stale.epochs = [7]
    await node.writer.submit(stale)
    assert stale.codes == [OP_CODE_NOT_OWNER]
    assert proofs == []


async def test_a_full_disk_refuses_writes_and_nothing_else(
    process: Callable[..., Process], database: str
) -> None:
    """The lease lasts, so reads go on; writes resume by themselves when there is room."""
    node = process()
    await node.leads()
    async with await psycopg.AsyncConnection.connect(
        database, autocommit=True, options="-csearch_path=likering"
    ) as admin:
        await admin.execute("""
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$""")
        await admin.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON posts_s0 FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        full = next(f"p{n}" for n in range(100) if slot_of(f"p{n}", SLOTS) == 0)
        ends = asyncio.get_running_loop().time() + LEASE + 1
        while asyncio.get_running_loop().time() < ends:
            assert (await like(node, full, "u"))[0] == OP_CODE_STORAGE_FULL
            assert node.leadership.leased
        await admin.execute("DROP TRIGGER full_disk ON posts_s0")
    assert (await like(node, full, "u"))[0] == 0
    assert node.generations == [2]


async def test_a_slot_change_that_fails_ends_nothing(process: Callable[..., Process]) -> None:
    """Whoever wanted it is told; the writer goes on."""
    node = process()
    await node.leads()

    async def again(connection: Connection) -> None:
        await store.add_slots(connection, {0: 1})

    with pytest.raises(psycopg.errors.UniqueViolation):
        await node.writer.change_slots(again)
    assert await like(node, "p", "u") == (0, OP_OUTCOME_CHANGED, 1)


async def test_a_slot_change_is_an_entry_of_the_queue(process: Callable[..., Process]) -> None:
    """What is queued before it is committed by the old map, what comes later is refused by the new one."""
    node = process()
    await node.leads()

    async def give_up_all(connection: Connection) -> None:
        await connection.execute("DELETE FROM slots")

    assert await like(node, "p", "u1") == (0, OP_OUTCOME_CHANGED, 1)
    before = node.leadership.fence
    await node.writer.change_slots(give_up_all)
    assert node.leadership.fence == Fence(before.generation, before.slots_seq + 1)
    assert (await like(node, "p", "u2"))[0] == OP_CODE_NOT_OWNER


async def test_a_waiting_process_takes_over_from_one_that_dies(process: Callable[..., Process]) -> None:
    """The lock of a dead leader is gone at once; its revisions are not issued again."""
    old, new = process(patience=60.0), None
    await old.leads()
    await like(old, "p", "u1")
    new = process(patience=60.0)
    await old.stop()
    await new.leads()
    assert new.generations == [old.generations[0] + 1]
    assert await like(new, "p", "u2") == (0, OP_OUTCOME_CHANGED, 2)


async def test_a_silent_leader_is_replaced_and_can_write_nothing(process: Callable[..., Process]) -> None:
    """A leader that is stopped keeps its lock, and finds itself fenced when it goes on."""
    old = process()
    await old.leads()
    await like(old, "p", "u1")
    assert old.running is not None
    old.running.cancel()  # as SIGSTOP does: no beat, while the session lives on
    connection, fence = old.leadership.connection, old.leadership.fence
    old.leadership._connection = None
    new = process()
    await new.leads()
    batch = Batch(NOW)
    batch.add(unit([(True, "p", "zombie", 0)]), {})
    with pytest.raises((store.FenceLost, psycopg.OperationalError)):
        await commit(connection, fence, batch, PostNumbers())
    await connection.close()
    assert await like(new, "p", "u2") == (0, OP_OUTCOME_CHANGED, 2)


async def test_a_database_that_restarts_is_led_again(tmp_path: Path) -> None:
    """Immediate shutdown: what was acknowledged is there, the process leads on in a new generation by itself."""
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    try:
        async with prepared(server.dsn):
            pass
        node = Process(server.dsn)
        node.start()
        await node.leads()
        acknowledged = [n for n in range(20) if (await like(node, "p", f"u{n}"))[0] == 0]
        server.kill(signal.SIGQUIT)
        await asyncio.to_thread(server.stop)
        assert (await like(node, "p", "unlucky"))[0] in (OP_CODE_UNAVAILABLE, OP_CODE_UNKNOWN_OUTCOME)
        assert not node.leadership.leased
        await asyncio.to_thread(server.start)
        await node.leads(generations=2)
        code, _, count = await like(node, "p", "lucky")
        assert code == 0
        assert count == len(acknowledged) + 1
        await node.stop()
    finally:
        server.stop()


async def test_a_frozen_database_is_given_up_in_time(tmp_path: Path) -> None:
    """SIGSTOP of a whole Postgres: operations get an answer, the lease ends, and afterwards all is well again."""
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    try:
        async with prepared(server.dsn):
            pass
        node = Process(server.dsn, transaction_timeout=0.5)
        node.start()
        await node.leads()
        await like(node, "p", "u1")
        pids = [server.pid, *children(server.pid)]
        for pid in pids:
            signal_if_alive(pid, signal.SIGSTOP)
        try:
            assert (await like(node, "p", "u2"))[0] in (OP_CODE_UNAVAILABLE, OP_CODE_UNKNOWN_OUTCOME)
        finally:
            for pid in pids:
                signal_if_alive(pid, signal.SIGCONT)
        await node.leads(generations=2)
        code, _, count = await like(node, "p", "u3")
        assert code == 0
        async with await psycopg.AsyncConnection.connect(node.leadership._conninfo) as connection:
            cursor = await connection.execute(f"SELECT count(*) FROM {EDGES} WHERE liked AND post_id = 'p'")
            assert await cursor.fetchone() == (count,)
        await node.stop()
    finally:
        server.stop()


def children(pid: int | None) -> list[int]:
    """The processes that a Postgres has started."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def signal_if_alive(pid: int | None, number: signal.Signals) -> None:
    """A backend may end meanwhile."""
    assert pid is not None
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
