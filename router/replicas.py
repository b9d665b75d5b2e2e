"""Stale reads of a node that is gone, by a replica of its database.

A read whose caller takes stale answers goes to the owner first. When that is not connected, cannot answer, or has not
for ``OWNER_PATIENCE``, it goes to one of the node's replicas as well, and the first good answer counts. All other
traffic, and that of nodes without replicas, passes by here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import grpc

from likering.errors import WrongCluster
from likering.ring.topology import Topology
from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import Answer, Fate, Fragment, Row
from router.lane import Lane, LaneLimits, Way
from router.node_client import NodeClient
from router.pace import Pace
from router.tallies import TrafficTally

OWNER_PATIENCE: Final = 0.25
"""Seconds that the owner is given before a replica is asked as well."""
_UNAVAILABLE: Final = int(shard.OP_CODE_UNAVAILABLE)
_NOTHING: Final[Row] = (0, 0, 0, 0, 0, 0)


class Replicas:
    """The connections to all replicas of a topology. Lives on one event loop."""

    def __init__(
        self,
        session_id: str,
        limits: LaneLimits,
        pace: Pace,
        on_connection: Callable[[], None],
        tally: TrafficTally | None = None,
    ) -> None:
        """``on_connection`` is called when a connection begins or ends to stand. ``tally``: see Lane."""
        self._session_id = session_id
        self._limits = limits
        self._pace = pace
        self._on_connection = on_connection
        self._tally = tally
        self._clients: dict[str, NodeClient] = {}
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Replicas {', '.join(map(repr, self._clients.values()))}>"

    def use(self, topology: Topology) -> None:
        """Connects to the replicas of this topology, and to no others."""
        wanted = {address for addresses in topology.replicas.values() for address in addresses}
        for address in wanted - self._clients.keys():
            self._join(address, topology.cluster_id)
        for address in self._clients.keys() - wanted:
            self._leave(address)

    def ways(self, addresses: Sequence[str], lanes: Sequence[Lane]) -> Sequence[Way]:
        """The ways to a node by kind of traffic, of its lanes and its replicas' addresses."""
        if not addresses:
            return lanes
        ways: list[Way] = list(lanes)
        ways[shard.READ_MODE_STALE_OK] = StaleWay(
            lanes[shard.READ_MODE_STALE_OK], [self._lanes[address] for address in addresses], self._tasks
        )
        return ways

    async def close(self) -> None:
        """Ends all connections. No call may be in progress."""
        for address in list(self._clients):
            self._leave(address)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _join(self, address: str, cluster_id: str) -> None:
        def changed(node: NodeClient, connected: bool) -> None:
            if not connected:
                lane.flush()
            self._on_connection()

        client = NodeClient(f"replica {address}", self._session_id, changed)
        lane = Lane(client, shard.READ_MODE_STALE_OK, cluster_id, self._limits, self._pace, self._tally)
        self._clients[address], self._lanes[address] = client, lane
        client.connect(address, 1)

    def _leave(self, address: str) -> None:
        self._lanes.pop(address).flush()
        task = asyncio.get_running_loop().create_task(self._clients.pop(address).close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class StaleWay:
    """The way of stale reads to a node that has replicas."""

    def __init__(self, owner: Lane, replicas: Sequence[Lane], tasks: set[asyncio.Task[None]]) -> None:
        """``tasks`` holds what is under way."""
        self._owner = owner
        self._replicas = replicas
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<StaleWay {self._owner!r}, or {len(self._replicas)} replicas>"

    def has_room(self, operations: int) -> bool:
        """Whether so many operations may still be queued."""
        return self._owner.has_room(operations)

    def submit(self, fragment: Fragment) -> None:
        """Takes a fragment, whose ``future`` says what becomes of it. Raises RouterOverloaded."""
        own = _part(fragment, range(len(fragment.kinds)))
        self._owner.submit(own)
        task = asyncio.get_running_loop().create_task(self._bring(fragment, own))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not fragment.future.done():
                fragment.future.set_result(Fate.LOST)  # by a bug; nobody is to wait for ever
            if not task.cancelled():
                task.result()

        task.add_done_callback(ended)

    async def _bring(self, fragment: Fragment, own: Fragment) -> None:
        other: Fragment | None = None
        try:
            await _first_of(own, fragment, timeout=OWNER_PATIENCE)
            lacking = self._lacking(own)
            if lacking:
                other = self._ask_replica(fragment, lacking)
            if other is not None:
                if not own.future.done():
                    await _first_of(own, other, fragment)
                if self._lacking(own):
                    await _first_of(other, fragment)
                    if not fragment.future.done() and _join_answers(fragment, own, other, lacking):
                        return
            await _first_of(own, fragment)
            if not fragment.future.done():
                _pass_on(own, fragment)
        finally:
            # Only does something to those that are not answered: nobody waits for them any more.
            own.future.cancel()
            if other is not None:
                other.future.cancel()

    def _lacking(self, own: Fragment) -> Sequence[int]:
        """The positions for which the owner has no answer because it is gone, or has none yet."""
        everything = range(len(own.kinds))
        if not own.future.done():
            return everything
        match own.future.result():
            case Fate.ANSWERED:
                codes = _codes(own)
                return [position for position in everything if codes[position] == _UNAVAILABLE]
            case Fate.NOT_SENT:
                # While it is connected: the topology has changed, and who owns the slots is to be looked up anew.
                return () if self._owner.node.connected else everything
            case Fate.LOST:
                return everything
            case Fate.REFUSED:
                gone = isinstance(own.error, WrongCluster) or own.error.code is grpc.StatusCode.UNAVAILABLE
                return everything if gone else ()

    def _ask_replica(self, fragment: Fragment, positions: Sequence[int]) -> Fragment | None:
        """Sends these operations to a replica; None when there is none to send them to, or nobody waits for them."""
        if fragment.future.done():
            return None
        ready = [lane for lane in self._replicas if lane.node.connected and lane.has_room(len(positions))]
        if not ready:
            return None
        other = _part(fragment, positions)
        random.choice(ready).submit(other)
        return other


async def _first_of(*fragments: Fragment, timeout: float | None = None) -> None:
    """Waits until one of them is done with."""
    await asyncio.wait(
        [fragment.future for fragment in fragments],
        timeout=timeout,
        return_when=asyncio.FIRST_COMPLETED,
    )


def _part(fragment: Fragment, positions: Sequence[int]) -> Fragment:
    """The operations at these positions, with a future of their own."""
    return Fragment(
        [fragment.kinds[position] for position in positions],
        [fragment.post_ids[position] for position in positions],
        [fragment.user_ids[position] for position in positions],
        [fragment.intent_times[position] for position in positions],
        [fragment.epochs[position] for position in positions],
        [fragment.min_versions[position] for position in positions],
        fragment.deadline,
        fragment.request_id,
        asyncio.get_running_loop().create_future(),
    )


def _codes(fragment: Fragment) -> Sequence[int]:
    """The codes of a fragment that is answered."""
    size = len(fragment.kinds)
    codes = fragment.answer.codes
    return [0] * size if codes is None else codes[fragment.offset : fragment.offset + size]


def _pass_on(own: Fragment, fragment: Fragment) -> None:
    """Makes what became of one what became of the other."""
    fate = own.future.result()
    if fate is Fate.ANSWERED:
        fragment.answer, fragment.offset = own.answer, own.offset
    elif fate is Fate.REFUSED:
        fragment.error = own.error
    fragment.future.set_result(fate)


def _join_answers(fragment: Fragment, own: Fragment, other: Fragment, positions: Sequence[int]) -> bool:
    """Answers with what the owner has, and with the replica's at ``positions``. False: the replica had nothing."""
    if other.future.result() is not Fate.ANSWERED:
        return False
    found = _codes(other)
    if all(found):
        return False
    size = len(fragment.kinds)
    if own.future.done() and own.future.result() is Fate.ANSWERED:
        version = own.answer.topology_version
        codes, rows = list(_codes(own)), list(own.answer.rows[own.offset : own.offset + size])
    else:
        version = other.answer.topology_version
        codes, rows = [_UNAVAILABLE] * size, [_NOTHING] * size
    for number, position in enumerate(positions):
        # What the replica lacks may be anything, and says nothing of the owner: it is to be asked for again.
        if codes[position] == _UNAVAILABLE and not found[number]:
            codes[position], rows[position] = 0, other.answer.rows[other.offset + number]
    fragment.answer, fragment.offset = Answer.of(rows, codes, version), 0
    fragment.future.set_result(Fate.ANSWERED)
    return True
