"""The move of one slot of a cluster of two nodes while likes flow to it, stopped at a step and checked at its end."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from likering.dev.cluster import EmbeddedCluster
from likering.errors import LikeringError
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.topology.moves import ENDED, MoveChanged, MoveState, SlotMove
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore
from tests.parts.apply_move import apply
from tests.parts.callers import Callers
from tests.parts.node_at_failpoint import Failpoints
from tests.parts.oracle import contradictions, judged
from tests.parts.stored import stored_in
from tests.parts.until import until
from tests.parts.user_side import differences

SLOTS = 8
BUDGET_MS = 4000
"""Of a pause: so long that a slow machine aborts nothing by itself."""
RATE = 120.0
"""Calls in a second: so few that the processor is left to those who start again."""
SAID = "cannot tend the moves"
"""What a node logs when the topology does not answer."""
_LEFT = """
    SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
    UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'replication origin ' || roname FROM pg_replication_origin
    UNION ALL SELECT 'table ' || relname FROM pg_class
              WHERE relkind = 'r' AND relnamespace = 'likering'::regnamespace
                AND relname ~ '^(edges|posts|user_likes)_s'
                AND NOT EXISTS (SELECT FROM slots WHERE state <> 'moved'
                                AND relname ~ ('^(edges|posts|user_likes)_s' || slot || '$'))
    UNION ALL SELECT 'row ' || slot || ' ' || state FROM slots
              WHERE state <> 'owner' AND (state <> 'moved' OR move IS NOT NULL)
"""


class Handoff:
    """One move of a slot that has likes: from ``source``, its owner, to ``target``, the other node."""

    def __init__(
        self, cluster: EmbeddedCluster, failpoints: Failpoints, callers: Callers, before: Topology
    ) -> None:
        self.cluster = cluster
        self.failpoints = failpoints
        self.callers = callers
        self.moves = PostgresMoveStore(cluster.topology_dsn)
        # From the node that has the most slots, so that both always have some.
        (self.source, _), *_ = Counter(owner for owner in before.owners if owner).most_common()
        (self.target,) = cluster.nodes.keys() - {self.source}
        slots = (slot_of(post, SLOTS) for post in callers.posts)
        self.slot = next(slot for slot in slots if before.owners[slot] == self.source)
        self.epoch = before.epochs[self.slot]
        self._owners_before = before.owners
        self.number = 0
        """Of the move, once it has begun."""
        self._store = PostgresTopologyStore(cluster.topology_dsn)

    @classmethod
    async def between(cls, cluster: EmbeddedCluster, failpoints: Failpoints, callers: Callers) -> Handoff:
        """Of a slot that the callers use."""
        store = PostgresTopologyStore(cluster.topology_dsn)
        try:
            return cls(cluster, failpoints, callers, await store.get())
        finally:
            await store.close()

    async def close(self) -> None:
        """Gives back the connections."""
        await self.moves.close()
        await self._store.close()

    # What happens

    async def begin_until(self, node: str, step: str) -> None:
        """Begins the move; returns when the node stands still at the step."""
        self.failpoints.arm(node, step)
        if step == "committed":
            # Only while the source has not said that it has ended its reads.
            self.failpoints.keep_reads(self.source)
            self.failpoints.arm(self.source, "reads_ended")
        self.number = await apply(self.cluster.topology_dsn, self.slot, self.target)
        await self.failpoints.held(node)
        if step == "committed":
            self.release(self.source)

    def release(self, node: str) -> None:
        """Lets it go on."""
        self.failpoints.release(node)

    def kill(self, node: str) -> int:
        """Ends the node's process, which stands still or not; returns how often it had been started again before."""
        restarts = self.cluster.parts[node, "node"].restarts
        self.cluster.kill(node, "node", signal.SIGKILL)
        self.release(node)
        return restarts

    async def kill_and_await(self, node: str) -> None:
        """Ends the node's process, and returns when another one serves and the topology knows it."""
        part = self.cluster.parts[node, "node"]
        generation = (await self._store.get()).nodes[node].generation
        before = self.kill(node)
        await until(lambda: part.restarts > before and part.is_serving, 30)
        async with asyncio.timeout(30):
            # What is planned before that is of an older topology.
            while (await self._store.get()).nodes[node].generation == generation:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)

    async def crash_postgres(self, node: str) -> None:
        """Ends the node's Postgres by an immediate shutdown, as a loss of power would; supervision starts it again."""
        process = self.cluster.parts[node, "postgres"].server.process
        assert process is not None
        self.cluster.kill(node, "postgres", signal.SIGQUIT)
        assert await asyncio.to_thread(process.wait, 20)

    @asynccontextmanager
    async def topology_away(self) -> AsyncIterator[None]:
        """Ends the topology's Postgres by an immediate shutdown; it comes back at the end of the ``async with``."""
        part = self.cluster.parts["topology", "postgres"]
        self.cluster.kill("topology", "postgres", signal.SIGQUIT)
        await asyncio.to_thread(part.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(part.start)

    # What is so

    def log_of(self, node: str) -> str:
        """What the node has said so far."""
        return (self.cluster.directory / "logs" / f"{node}-node.log").read_text()

    def takes_writes(self) -> Callable[[], bool]:
        """For ``until``: whether a like of the slot has been acknowledged since this call."""
        return self._acknowledged({self.slot})

    def takes_writes_of(self, node: str) -> Callable[[], bool]:
        """The same for any other slot of a node, as they were before the move."""
        others = {slot for slot, owner in enumerate(self._owners_before) if owner == node}
        return self._acknowledged(others - {self.slot})

    def _acknowledged(self, slots: Collection[int]) -> Callable[[], bool]:
        posts = {post for post in self.callers.posts if slot_of(post, SLOTS) in slots}
        changes = self.callers.history.changes
        since = len(changes)
        return lambda: any(
            change.outcome is not None and change.edge[0] in posts for change in changes[since:]
        )

    async def row(self, node: str) -> tuple[Any, ...] | None:
        """State and epoch of the slot in the node's database."""
        async with await connect(self.cluster.nodes[node].postgres_dsn) as connection:
            cursor = await connection.execute("SELECT state, epoch FROM slots WHERE slot = %s", [self.slot])
            return await cursor.fetchone()

    async def topology(self) -> Topology:
        """As it is now."""
        return await self._store.get()

    async def move(self) -> SlotMove:
        """As the topology has it now."""
        return await self.moves.move(self.number)

    # The end

    async def ends(self, state: MoveState = MoveState.RETIRED) -> SlotMove:
        """Waits for the move's end, and checks that nothing is lost, doubled or left behind."""
        await nothing(self._unfinished)
        move = await self.move()
        assert move.state is state, move
        match state:
            case MoveState.REVERTED:
                owner, epoch = self.source, self.epoch + 2
            case MoveState.CANCELLED:
                owner, epoch = self.source, self.epoch
            case _:
                owner, epoch = self.target, self.epoch + 1
        await until(self.takes_writes())
        await self.callers.stop()
        assert await self._owners() == {(self.slot, owner, epoch)}
        events = await self.moves.events([self.number])
        assert [event for event in events if "this is a bug" in str(event.detail)] == []
        stored = await stored_in(
            [node.postgres_dsn for node in self.cluster.nodes.values()], self.callers.posts
        )
        problems = contradictions(self.callers.history, stored, trouble=True)
        assert not problems, judged(problems, self.callers.seed)
        await self.users_told()
        return move

    async def users_told(self) -> None:
        """Waits until the users' side of the cluster is what the posts' side is; nobody may like anything any more."""
        await nothing(lambda: differences([node.postgres_dsn for node in self.cluster.nodes.values()]))

    async def _unfinished(self) -> list[str]:
        """What is still to come."""
        move = await self.move()
        if move.state not in ENDED:
            return [f"{move}: {move.state}, attempt {move.attempt}, {move.waits_for!r}, {move.last_error!r}"]
        left = []
        for name, node in self.cluster.nodes.items():
            async with await connect(node.postgres_dsn) as connection:
                cursor = await connection.execute(_LEFT)
                left += [f"on {name}: {what}" for (what,) in await cursor.fetchall()]
        return left

    async def _owners(self) -> set[tuple[int, str, int]]:
        """Who says of itself to own the slot; all slots' owners are compared with the topology."""
        topology = await self._store.get()
        said = []
        for name, node in self.cluster.nodes.items():
            async with await connect(node.postgres_dsn) as connection:
                cursor = await connection.execute("SELECT slot, epoch FROM slots WHERE state = 'owner'")
                said += [(slot, name, epoch) for slot, epoch in await cursor.fetchall()]
        assert sorted(said) == [(slot, topology.owners[slot], topology.epochs[slot]) for slot in range(SLOTS)]
        return {one for one in said if one[0] == self.slot}


async def nothing(look: Callable[[], Awaitable[list[str]]], seconds: float = 45.0) -> None:
    """Looks until there is nothing to be seen. A database that is away is something too."""
    seen: list[str] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    seen = await look()
                except MoveChanged:
                    raise
                except (LikeringError, psycopg.Error) as error:
                    seen = [repr(error)]
                if not seen:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError("\n".join(seen)) from None


async def connect(dsn: str) -> psycopg.AsyncConnection[Any]:
    """In the schema of a node."""
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, options="-csearch_path=likering")
