"""The count cache: a view of the database's counts, cold at worst and never wrong.

A post is cached when its count is read. From then on its count is written after each commit, before the operations are
answered, and only over an older version. This process remembers which posts it has cached, so that a like of a post
that nobody reads costs the cache nothing. What keeps a wrong count from ever being read:

- Keys carry the slot's epoch, so that a slot which comes back after a move begins anew.
- Keys carry a *generation*. A new one begins with each new writer, with a restarted cache server, and when the server
  answers again after a command whose fate is not known: whatever lies there from before is out of reach.
- A post whose write the server refused is *dirty*: it is read from the database until the write has been repeated.
  Too many of them begin a new generation.
- A count read from the database fills the cache only if no newer one was published since that read began. The version
  alone does not ensure that: the newer one may have been evicted meanwhile.

While the server does not answer, the cache stands aside and every count comes from the database.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shard_node.cache_client import READ_TIMEOUT, WRITE_TIMEOUT, CacheClient, LoopWasBusy
from shard_node.ownership import Ownership
from shard_node.store import PostCount
from shard_node.tallies import CacheTally

log = structlog.get_logger(__name__)

TIME_TO_LIVE = 24 * 3600
"""Seconds. Only so that what an ended generation left does not stay for ever where nothing evicts it."""
REPAIR_INTERVAL = 0.25
"""Seconds between two tries to reach the server, or to repeat refused writes."""
MAX_DIRTY = 10_000
"""Dirty posts above which a new generation is cheaper."""
REMEMBERED_PUBLICATIONS = 256
MAX_HELD = 500_000
"""Posts that are remembered as cached (some 60 MB). With more of them, every commit is published whole."""


class CountCache:
    """Counts by post, in one cache server. ``start`` it in a running event loop."""

    def __init__(
        self,
        url: str,
        name: str,
        ownership: Ownership,
        *,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        """``name`` keeps apart the nodes that share a server. Timeouts in seconds, of one command."""
        self._client = CacheClient(
            url, self._server_restarted, read_timeout=read_timeout, write_timeout=write_timeout
        )
        self._ownership = ownership
        self._name = name
        self._writer_generation = 0
        self._restarts = 0
        self._prefix = ""
        self._down = False
        self._dirty: dict[str, tuple[int, PostCount]] = {}
        self.tally = CacheTally()
        """For the metrics."""
        self._held: set[str] | None = set()
        """What the server may hold of this generation; None when that is too much to remember."""
        self._published = 0
        self._publications: deque[frozenset[str]] = deque(maxlen=REMEMBERED_PUBLICATIONS)
        self._filling: Counter[str] = Counter()
        self._repairing: asyncio.Task[None] | None = None
        self._repair_wanted = asyncio.Event()
        self._begin_generation()

    def __repr__(self) -> str:
        return f"<CountCache {self._prefix}{' down' if self._down else ''}, {len(self._dirty)} dirty>"

    @property
    def dirty(self) -> int:
        """Posts whose count is not read here until a refused write has been repeated."""
        return len(self._dirty)

    @property
    def generations(self) -> int:
        """How often it has begun anew, cold."""
        return self._restarts

    @property
    def down(self) -> bool:
        """Whether the server does not answer."""
        return self._down

    def start(self) -> None:
        """Begins to repair what fails."""
        self._repairing = asyncio.create_task(self._repair())

    async def close(self) -> None:
        """Stops repairing and disconnects."""
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.wait((self._repairing,))
        await self._client.close()

    def new_writer(self, generation: int) -> None:
        """Another writer generation begins: what earlier ones cached is not read again."""
        self._writer_generation = generation
        self._begin_generation()

    def mark(self) -> int:
        """A moment to pass to ``fill``: take it before reading from the database."""
        return self._published

    async def get(self, slots: Mapping[str, int]) -> dict[str, PostCount]:
        """The cached counts of these posts (with their slots). Those that are absent must be read elsewhere."""
        found = await self._get(slots)
        self.tally.hits += len(found)
        self.tally.misses += len(slots) - len(found)
        return found

    async def _get(self, slots: Mapping[str, int]) -> dict[str, PostCount]:
        if self._down or not slots:
            return {}
        posts = [post_id for post_id in slots if post_id not in self._dirty] if self._dirty else list(slots)
        if not posts:
            return {}
        prefix = self._prefix
        try:
            values = await self._client.get(self._keys(prefix, slots, posts))
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._lost(error)
            return {}
        except LoopWasBusy:
            return {}
        except RedisError as error:
            log.warning("the cache refused a read", error=type(error).__name__)
            return {}
        if prefix != self._prefix:
            return {}
        counts = {}
        for post_id, value in zip(posts, values, strict=True):
            if value is not None and (count := _parse(value)) is not None:
                counts[post_id] = count
        return counts

    async def publish(self, slots: Mapping[str, int], counts: Mapping[str, PostCount]) -> None:
        """Brings those posts that are cached to what a commit made of them.

        Returns when no older count can be read from here any more.
        """
        if not counts:
            return
        self._published += 1
        self._publications.append(frozenset(counts))
        if self._held is not None:
            counts = {post_id: counts[post_id] for post_id in self._held.intersection(counts)}
        if counts:
            # A fill that is on its way may be overtaken by this: then the key must be there for it to lose against.
            overtaking = not self._filling.keys().isdisjoint(counts)
            await self._set(slots, counts, make=overtaking)

    async def fill(self, mark: int, slots: Mapping[str, int], counts: Mapping[str, PostCount]) -> None:
        """Caches what was read from the database after ``mark``, unless something newer was published since."""
        since = self._published - mark
        if since > len(self._publications):
            return
        newer = frozenset().union(*list(self._publications)[len(self._publications) - since :])
        counts = {post_id: count for post_id, count in counts.items() if post_id not in newer}
        if counts:
            self._filling.update(counts.keys())
            try:
                await self._set(slots, counts, make=True)
            finally:
                self._filling.subtract(counts.keys())
                self._filling += Counter()  # drops those that are done

    async def _set(self, slots: Mapping[str, int], counts: Mapping[str, PostCount], *, make: bool) -> None:
        if self._down:
            return  # the next generation begins when it is back
        prefix = self._prefix
        if make and self._held is not None:
            self._held.update(counts)
            if len(self._held) > MAX_HELD:
                self._held = None
        keys = self._keys(prefix, slots, counts)
        values = [f"{count.version} {count.like_count}" for count in counts.values()]
        try:
            await self._client.set_if_newer(keys, values, TIME_TO_LIVE, make=make)
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._lost(error)
        except RedisError as error:
            self._refused(error, prefix, slots, counts)
        else:
            if self._dirty and prefix == self._prefix:
                for post_id, count in counts.items():
                    dirty = self._dirty.get(post_id)
                    if dirty is not None and dirty[1].version <= count.version:
                        del self._dirty[post_id]

    def _keys(self, prefix: str, slots: Mapping[str, int], posts: Iterable[str]) -> list[str]:
        epochs = self._ownership.epochs
        return [f"{prefix}{(slot := slots[post_id])}.{epochs.get(slot)}:{post_id}" for post_id in posts]

    def _refused(
        self, error: RedisError, prefix: str, slots: Mapping[str, int], counts: Mapping[str, PostCount]
    ) -> None:
        if prefix != self._prefix:
            return
        log.warning("the cache refused a write", error=type(error).__name__, posts=len(counts))
        for post_id, count in counts.items():
            dirty = self._dirty.get(post_id)
            if dirty is None or dirty[1].version < count.version:
                self._dirty[post_id] = (slots[post_id], count)
        if len(self._dirty) > MAX_DIRTY:
            self._begin_generation()
        self._repair_wanted.set()

    def _lost(self, error: RedisError) -> None:
        if not self._down:
            log.warning("the cache does not answer", error=type(error).__name__)
            self._down = True
            self._repair_wanted.set()

    def _server_restarted(self) -> None:
        log.info("the cache server has restarted")
        self._begin_generation()

    def _begin_generation(self) -> None:
        self._restarts += 1
        self._prefix = f"likes:{self._name}:{self._writer_generation}.{self._restarts}:"
        self._dirty.clear()
        self._held = set()

    async def _repair(self) -> None:
        while True:
            await self._repair_wanted.wait()
            await asyncio.sleep(REPAIR_INTERVAL)
            if self._down:
                try:
                    await self._client.ping()
                except RedisError:
                    continue
                # A command that timed out may yet be executed: only against the keys of the generation that ends here.
                self._begin_generation()
                self._down = False
                log.info("the cache answers again")
            dirty = dict(list(self._dirty.items())[:500])
            if dirty:
                await self._set(
                    {post_id: slot for post_id, (slot, _) in dirty.items()},
                    {post_id: count for post_id, (_, count) in dirty.items()},
                    make=False,
                )
            if not (self._down or self._dirty):
                self._repair_wanted.clear()


def _parse(value: bytes) -> PostCount | None:
    """The count of a cached value; None when it is not one of ours."""
    version, _, count = value.partition(b" ")
    if version.isdigit() and count.isdigit():
        return PostCount(int(version), int(count))
    return None
