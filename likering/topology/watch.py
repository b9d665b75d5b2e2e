"""The newest topology in memory: told of changes, polled besides, and kept when the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress

import structlog

from likering.errors import LikeringError, TopologyUnavailable
from likering.ring.topology import Topology
from likering.topology.store import TopologyChange, TopologyStore

POLL_SECONDS = 1.0
CONFIRM_SECONDS = 10.0
"""How long what was put together from notifications is believed before all of it is read."""
RETRY_SECONDS = 0.25

_log = structlog.get_logger(__name__)


class TopologyWatch:
    """Keeps the newest topology of a store, for one event loop.

    A notification says that there is something to read, or, of a move, what is new; each second the store is asked
    anyway. When it does not answer, the last topology stays. A lower version, or another cluster, is never taken: a
    topology database that forgot something is an alarm, not an order. If it has counted up again since, that shows when
    all of it is read: some seconds after the last move.
    """

    def __init__(self, store: TopologyStore, on_change: Callable[[Topology], None] | None = None) -> None:
        """``on_change`` is called in the event loop with each new topology. The store stays the caller's to close."""
        self._store = store
        self._on_change = on_change
        self._current: Topology | None = None
        self._changed = asyncio.Event()  # replaced with each change, so that everybody who waits wakes once
        self._look = asyncio.Event()
        self._trouble: LikeringError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unread_since: float | None = None
        """Since when ``current`` is put together from notifications; None when it was read."""

    def __repr__(self) -> str:
        return f"TopologyWatch({self._current!r}, trouble={self._trouble!r})"

    @property
    def current(self) -> Topology:
        """The newest topology known. Raises TopologyUnavailable before the first one."""
        if self._current is None:
            raise TopologyUnavailable
        return self._current

    @property
    def latest(self) -> Topology | None:
        """The newest topology known, None before the first one."""
        return self._current

    @property
    def trouble(self) -> LikeringError | None:
        """Why the newest look at the store gave nothing, None when it did."""
        return self._trouble

    async def start(self, timeout: float) -> Topology:
        """Begin to watch and wait for the first topology.

        Raises TopologyUnavailable after ``timeout`` seconds, with the reason of the last attempt; nothing runs then.
        """
        self.begin()
        try:
            async with asyncio.timeout(timeout):
                return await self.at_least(0)
        except TimeoutError:
            await self.stop()
            if isinstance(self._trouble, TopologyUnavailable):
                raise self._trouble from self._trouble.__cause__
            raise TopologyUnavailable(
                f"The topology database gave no answer within {timeout:g} s"
            ) from self._trouble
        except asyncio.CancelledError:
            await self.stop()
            raise

    def begin(self) -> None:
        """Begin to watch without waiting for a topology."""
        if self._tasks:
            raise RuntimeError("The watch runs already")
        self._tasks = [
            asyncio.create_task(self._forever(self._poll), name="topology-poll"),
            asyncio.create_task(self._forever(self._listen), name="topology-listen"),
        ]

    async def at_least(self, version: int) -> Topology:
        """Wait until the topology has ``version`` or a higher one. Has no deadline: cancel it, or use a timeout."""
        while self._current is None or self._current.version < version:
            self.refresh_soon()
            await self._changed.wait()
        return self._current

    async def newer_than(self, version: int) -> Topology:
        """Wait until the topology has a higher version than ``version``."""
        return await self.at_least(version + 1)

    def refresh_soon(self) -> None:
        """Look at the store now instead of at the next poll; many calls make one look."""
        self._look.set()

    async def stop(self) -> None:
        """Stop watching; ``current`` stays what it was."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _forever(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        while True:
            try:
                await work()
            except LikeringError:
                pass  # the poller has noted why
            except Exception:
                # A watcher that died would leave this process on one topology for ever, and nobody would know.
                _log.exception("topology_watch_failed")
            await asyncio.sleep(RETRY_SECONDS)  # paces the attempts, however often somebody asks for one

    async def _poll(self) -> None:
        while True:
            self._look.clear()
            try:
                known = self._current
                unread_for = 0.0 if self._unread_since is None else time.monotonic() - self._unread_since
                confirming = unread_for > CONFIRM_SECONDS
                read = await self._store.get(None if confirming else known)
                self._publish(read, known)
                if read is not known:
                    self._confirm(read, known)
            except LikeringError as error:
                self._note(error)
                raise
            if self._trouble is not None:
                _log.info("topology_updated_again", version=self.current.version)
                self._trouble = None
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._look.wait()

    async def _listen(self) -> None:
        async with aclosing(self._store.changes()) as changes:
            async for change in changes:
                if self._current is None:
                    self.refresh_soon()
                elif change.version > self._current.version:
                    self._follow(self._current, change)

    def _follow(self, current: Topology, change: TopologyChange) -> None:
        """A resize changes the topology with each slot: were it read by all who watch, that would cost most of all."""
        if change.new_owner is None or change.version > current.version + 1:
            self.refresh_soon()
            return
        new = change.new_owner
        try:
            self._publish(current.with_owner(change.version, new.slot, new.owner, new.epoch), current)
            self._unread_since = self._unread_since or time.monotonic()
        except ValueError:
            self.refresh_soon()  # of another cluster, or by a program that is no match for this one

    def _confirm(self, read: Topology, known: Topology | None) -> None:
        """All of it was read: what was put together from notifications must be the same."""
        if self._current not in (read, known):
            return  # another one has come meanwhile
        self._unread_since = None
        if known is not None and read.version == known.version and read != known:
            _log.error("topology_differs", version=read.version, cluster_id=read.cluster_id)
            self._take(read)

    def _note(self, error: LikeringError) -> None:
        """Remember why there is nothing new; say it once, not with each attempt."""
        if self._trouble is None or self._trouble.message != error.message:
            version = self._current.version if self._current is not None else None
            _log.warning(
                "topology_not_updated", reason=error.message, cause=str(error.__cause__), kept=version
            )
        self._trouble = error

    def _publish(self, topology: Topology, known: Topology | None) -> None:
        """Takes a topology over. ``known``: the newest one when the store was asked; there may be newer ones since."""
        if known is not None:
            if topology.cluster_id != known.cluster_id:
                raise TopologyUnavailable(
                    f"The topology database is of cluster {topology.cluster_id} now, not of {known.cluster_id}"
                )
            if topology.version < known.version:
                raise TopologyUnavailable(
                    f"The topology database went back to version {topology.version} from {known.version}"
                )
        if self._current is None or topology.version > self._current.version:
            self._take(topology)

    def _take(self, topology: Topology) -> None:
        self._current = topology
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self._on_change is not None:
            self._on_change(topology)
