"""Tells the owners of users what has become of their edges: reads the changes of the node's own slots and sends them.

A look reads one page of each slot in which there may be something new, once for all destinations that are there, and
each gets what concerns its users. One call per destination is under way; whoever does not answer, or
refuses, is asked again after a while, from its mark on, and holds up nobody else. ``user_marks`` says what a mark is,
``changes`` why a position never passes a change that is still to come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, Protocol

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from likering.errors import LikeringError
from likering.ring.hashing import slot_of
from likering.ring.topology import Topology
from likering.shard.v1.shard_service_pb2 import OP_CODE_MOVING, OP_CODE_NOT_OWNER, OP_CODE_UNSPECIFIED
from shard_node import user_store
from shard_node.database import within
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership
from shard_node.store import Connection, Fence, SlotMoment
from shard_node.user_likes import Codes
from shard_node.user_marks import Routes, accepted, digest, rerouted, restored, successions
from shard_node.user_parcels import Destination, Detour, Parcel, Portion
from shard_node.user_store import Marks, ToldEdge, UserChange
from shard_node.writer import Writer

log = structlog.get_logger(__name__)

LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks at what commits have added. Each costs a call to every node, whatever there is to tell."""
PAGE: Final = 1000
"""Most changes of one look, and so of one call."""
SLOTS_AT_ONCE: Final = 64
"""Most slots of one look."""
READ_TIMEOUT: Final = 10.0
"""Seconds after which a look is given up."""
FULL_LOOK_INTERVAL: Final = 10.0
"""Seconds after which all slots are looked at, touched or not."""
MARKS_INTERVAL: Final = 3.0
"""Seconds between two notes of the marks: so much is told again after a crash."""
_RETRY: Final = 0.25

_OF_SLOTS: Final = frozenset((OP_CODE_UNSPECIFIED, OP_CODE_MOVING, OP_CODE_NOT_OWNER))
"""What is said of one slot of users, and is no reason to tell the others nothing."""

Rows = Sequence[ToldEdge]
Deliver = Callable[[str, Rows, Sequence[int]], Awaitable[Codes]]
"""Tells a node edges with the epochs of the users' slots. Raises LikeringError."""


class Topologies(Protocol):
    """What is needed of the topology's watch."""

    @property
    def latest(self) -> Topology | None: ...
    async def newer_than(self, version: int) -> Topology: ...


class UserFeed:
    """What one node tells. ``run`` it as a task."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        ownership: Ownership,
        leadership: Leadership,
        writer: Writer,
        topologies: Topologies,
        deliver: Deliver,
    ) -> None:
        self._pool = pool
        self._ownership = ownership
        self._leadership = leadership
        self._writer = writer
        self._topologies = topologies
        self._deliver = deliver
        self._topology: Topology | None = None
        self._routes: Routes = ()
        self._user_epochs: Sequence[int] = ()
        self._marks: dict[int, dict[str, int]] = {}
        self._epochs: dict[int, int] = {}
        self._unsaved: set[int] = set()
        self._destinations: dict[str, Destination] = {}
        self._touched: dict[int, float] = {}
        self._next_look = 0.0
        self._next_full_look = 0.0
        self._wake = asyncio.Event()
        ownership.on_replaced.append(self._look_at_new)

    def __repr__(self) -> str:
        return f"<UserFeed of {len(self._marks)} slots to {list(self._destinations.values())}>"

    def committed(self, slots: Collection[int]) -> None:
        """A commit has changed, or may have changed, these slots."""
        now = time.time()
        touched = self._touched
        for slot in frozenset(slots):
            touched.setdefault(slot, now)
        self._wake.set()

    def marks_of(self, slot: int) -> Marks | None:
        """How far a slot that is held has been told; None when that is not known."""
        if slot not in self._marks or self._ownership.epochs.get(slot) != self._epochs.get(slot):
            return None
        return Marks(digest(self._routes), dict(self._marks[slot]))

    def told(self, slot: int) -> int:
        """The revision up to which all owners of users have been told of a slot's changes; 0 when that is not known."""
        if self._ownership.epochs.get(slot) != self._epochs.get(slot):
            return 0
        return min(self._marks.get(slot, {}).values(), default=0)

    def lags(self) -> dict[str, float]:
        """By destination: the age in seconds of the oldest change that it may not have accepted yet; 0: it has all."""
        now = time.time()
        # What commits have just touched concerns all of them.
        oldest = min(self._touched.values(), default=now)
        return {
            name: max(destination.lag(now), now - oldest) for name, destination in self._destinations.items()
        }

    async def run(self) -> None:
        """Tells what there is, for as long as the task lives."""
        await self._writer.led.wait()  # before, nobody knows what the database owns
        besides = [asyncio.create_task(work()) for work in (self._watch_topology, self._keep_marks)]
        try:
            while True:
                await self._due()
                try:
                    await self._look()
                except (psycopg.OperationalError, PoolTimeout, TooManyRequests, TimeoutError) as error:
                    log.warning("could not read changes for the users' side", error=type(error).__name__)
                    self._look_at_all()
                    await asyncio.sleep(_RETRY)
        finally:
            sending = [one.sending for one in self._destinations.values() if one.sending is not None]
            for task in (*besides, *sending):
                task.cancel()
            await asyncio.gather(*besides, *sending, return_exceptions=True)

    # When

    def _look_at_all(self) -> None:
        self._next_full_look = 0.0
        self._wake.set()

    def _look_at_new(self) -> None:
        # Each move changes the slots several times, on both nodes; a look at all of them is for callers to feel.
        known = self._epochs
        self.committed([slot for slot, epoch in self._ownership.epochs.items() if known.get(slot) != epoch])

    async def _watch_topology(self) -> None:
        version = -1
        while True:
            version = (await self._topologies.newer_than(version)).version
            self._wake.set()

    async def _due(self) -> None:
        """Waits until there is something to look at and somebody to tell."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            self._follow_topology()
            if now >= self._next_full_look:
                self._next_full_look = now + FULL_LOOK_INTERVAL
                self.committed(self._ownership.owned.keys())
            if self._touched and now >= self._next_look:
                self._next_look = now + LOOK_INTERVAL
                self._spread()
            waiting = [one for one in self._destinations.values() if one.pending and one.sending is None]
            if not self._leadership.leased:
                wait = _RETRY
            else:
                wait = min(
                    self._next_full_look - now,
                    self._next_look - now if self._touched else FULL_LOOK_INTERVAL,
                    *(one.not_before - now for one in waiting),
                )
                if wait <= 0:
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 0.001)):
                    # Touched slots wait for the next look, whoever else wakes this.
                    await self._wake.wait()

    def _spread(self) -> None:
        """What was touched concerns all destinations."""
        touched, self._touched = self._touched, {}
        for destination in self._destinations.values():
            for slot, since in touched.items():
                destination.owes(slot, since)

    def _follow_topology(self) -> None:
        topology = self._topologies.latest
        if topology is None or topology is self._topology:
            return
        self._topology = topology
        self._user_epochs = topology.epochs
        if topology.owners == self._routes:
            return
        before, self._routes = self._routes, topology.owners
        names = {owner for owner in topology.owners if owner is not None}
        for destination in self._destinations.values():
            destination.not_before = 0.0  # what it refused may be another one's now
            destination.detours.clear()
        for name in names - self._destinations.keys():
            self._destinations[name] = Destination(name)
        for name in self._destinations.keys() - names:
            # What it is being told is not waited for: its users are others' by now.
            self._destinations.pop(name).give_up()
        now = time.time()
        changed = successions(before, self._routes) if before else ()
        for slot, marks in self._marks.items():
            self._marks[slot] = new = rerouted(marks, changed)
            self._unsaved.add(slot)
            for name in names:
                if new[name] != marks.get(name):
                    self._destinations[name].owes(slot, now)

    # What

    async def _look(self) -> None:
        """Reads a page of each slot that somebody waits for, and begins to send it."""
        await self._know_slots()
        now = time.monotonic()
        ready = [one for one in self._destinations.values() if one.pending and one.is_ready(now)]
        for destination in ready:
            for slot in destination.pending.keys() - self._marks.keys():
                del destination.pending[slot]  # not this node's any more
        wanted = dict.fromkeys(slot for destination in ready for slot in destination.pending)
        positions = {
            slot: min(one.position(slot, self._marks[slot][one.name]) for one in ready if slot in one.pending)
            for slot in islice(wanted, SLOTS_AT_ONCE)
        }
        if not positions:
            return
        limit = max(PAGE // len(positions), 1)
        routes, epochs, looked_at = self._routes, self._user_epochs, time.time()
        moments, changes = await within(READ_TIMEOUT, self._read(positions, limit))
        # The database of a node that another one has replaced may have changes that never were.
        if not self._leadership.leased or routes is not self._routes:
            return
        parcels = {one.name: Parcel() for one in ready}
        for slot, position in positions.items():
            moment, found = moments.get(slot), changes[slot]
            if moment is None or moment.epoch != self._epochs.get(slot):
                continue  # it has moved meanwhile; a look at what is owned now comes
            complete = len(found) < limit
            end = found[-1].rev if found else position
            if complete and moment.owned:
                end = max(end, moment.last_rev)
            for destination in ready:
                start = destination.position(slot, self._marks[slot][destination.name])
                if slot not in destination.pending or (start >= end and not complete):
                    continue
                # While this page is under way, what comes is noted anew.
                since = destination.pending.pop(slot)
                portion = Portion(slot, moment.epoch, start, max(start, end), complete, since)
                parcels[destination.name].portions.append(portion)
        self._address(parcels, changes, routes, epochs)
        if not any(parcel.portions for parcel in parcels.values()):
            await asyncio.sleep(_RETRY)  # the slots are about to be others than this process knows
        for destination in ready:
            parcel = parcels[destination.name]
            if parcel.portions:
                destination.parcel = parcel
                if parcel.rows:
                    destination.sending = asyncio.create_task(self._send(destination, parcel, routes))
                else:
                    self._answered(destination, parcel, [], looked_at)

    def _address(
        self,
        parcels: Mapping[str, Parcel],
        changes: Mapping[int, Sequence[UserChange]],
        routes: Routes,
        epochs: Sequence[int],
    ) -> None:
        """Fills the parcels with those changes that concern their destinations' users."""
        by_slot: dict[int, list[tuple[str, Parcel, Portion]]] = {}
        for name, parcel in parcels.items():
            for portion in parcel.portions:
                by_slot.setdefault(portion.slot, []).append((name, parcel, portion))
        for slot, wanting in by_slot.items():
            addressed: dict[str, list[tuple[UserChange, int, int]]] = {name: [] for name, _, _ in wanting}
            for change in changes[slot]:
                if change.was_liked:
                    user_slot = slot_of(change.user_id, len(routes))
                    rows = addressed.get(routes[user_slot] or "")
                    if rows is not None:
                        rows.append((change, user_slot, epochs[user_slot]))
            for name, parcel, portion in wanting:
                parcel.add(portion, addressed[name], self._destinations[name].detours.get(slot))

    async def _know_slots(self) -> None:
        """Takes up the marks of slots that have come, and forgets those that have gone."""
        held = self._ownership.epochs
        for slot in [slot for slot, epoch in self._epochs.items() if held.get(slot) != epoch]:
            del self._epochs[slot], self._marks[slot]
            self._unsaved.discard(slot)
            for destination in self._destinations.values():
                destination.detours.pop(slot, None)
        new = {slot: epoch for slot, epoch in held.items() if slot not in self._epochs}
        if not new or not self._routes:
            return
        noted = await within(READ_TIMEOUT, self._read_marks(list(new)))
        now = time.time()
        for slot, epoch in new.items():
            if self._ownership.epochs.get(slot) == epoch:
                self._epochs[slot] = epoch
                self._marks[slot] = restored(noted.get(slot), self._routes)
                for destination in self._destinations.values():
                    destination.owes(slot, now)

    async def _read(
        self, positions: Mapping[int, int], limit: int
    ) -> tuple[dict[int, SlotMoment], dict[int, list[UserChange]]]:
        async with self._pool.connection() as connection:
            return await user_store.read_changes(connection, positions, limit)

    async def _read_marks(self, slots: list[int]) -> dict[int, Marks]:
        async with self._pool.connection() as connection:
            return await user_store.read_marks(connection, slots)

    # To whom

    async def _send(self, destination: Destination, parcel: Parcel, routes: Routes) -> None:
        sent_at = time.time()
        codes: Codes | None = None
        try:
            answer = await self._deliver(destination.name, parcel.rows, parcel.epochs)
            codes = answer if len(answer) in (0, len(parcel.rows)) else None
        except LikeringError as error:
            if not destination.failures:
                log.info("cannot tell a node of its users", node=destination.name, reason=error.message)
        finally:
            destination.sending = None
            if codes is None or routes is not self._routes:
                # Other routes: its mark may have been lowered since, and says more than this answer.
                destination.take_back(parcel)
                destination.answered(well=codes is not None)
            else:
                self._answered(destination, parcel, codes, sent_at)
            self._wake.set()

    def _answered(self, destination: Destination, parcel: Parcel, codes: Codes, at: float) -> None:
        destination.parcel = None
        # A node that has no room is not asked to accept what follows either.
        well = passable = _OF_SLOTS.issuperset(codes)
        for portion in parcel.portions:
            slot = portion.slot
            if self._epochs.get(slot) != portion.epoch:
                destination.owes(slot, portion.since)  # it has gone, and may have come again
                continue
            refused = [bool(code) for code in codes[portion.first : portion.first + len(portion.revs)]]
            detour = destination.detours.get(slot)
            if detour is None:
                self._accepted(destination, portion, refused)
                if any(refused) and passable:
                    detour = destination.detours[slot] = Detour(portion.since)
            if detour is not None and (passable or not any(refused)):
                if detour.answered(portion, refused):
                    del destination.detours[slot]
                    self._raise_mark(destination, portion, portion.end)
                    continue
                destination.owes(slot, detour.since)
                if portion.complete:
                    well = False  # once more from the mark on, but after a while
            elif any(refused):
                destination.owes(slot, portion.since)
            elif not portion.complete:
                destination.owes(slot, min(portion.end / 1e6, at))
        destination.answered(well=well)

    def _accepted(self, destination: Destination, portion: Portion, refused: Sequence[bool]) -> None:
        mark = accepted(portion.start, portion.end, portion.revs, refused)
        if mark > portion.start:
            self._raise_mark(destination, portion, mark)

    def _raise_mark(self, destination: Destination, portion: Portion, mark: int) -> None:
        self._marks[portion.slot][destination.name] = mark
        self._unsaved.add(portion.slot)

    # How far

    async def _keep_marks(self) -> None:
        while True:
            await asyncio.sleep(MARKS_INTERVAL)
            if self._unsaved:
                unsaved, self._unsaved = self._unsaved, set()
                try:
                    await self._writer.write(partial(self._note, unsaved))
                except (psycopg.Error, ConnectionError, TimeoutError) as error:
                    log.warning("could not note what has been told", error=type(error).__name__)
                    self._unsaved |= unsaved

    async def _note(self, slots: Collection[int], connection: Connection, fence: Fence) -> None:
        """In the writer's turn, so the slots are as the fence says."""
        owned = self._ownership.owned
        marks = {
            slot: self._marks[slot]
            for slot in slots
            if slot in self._marks and owned.get(slot) == self._epochs[slot]
        }
        if marks:
            await user_store.write_marks(connection, fence, digest(self._routes), marks)
