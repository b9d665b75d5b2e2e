"""The metrics of a shard node: what its parts have counted, put into families when somebody looks.

docs/telemetry.md has the table of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from likering.serving.distribution import Distribution
from likering.topology.moves import UNDER_WAY, MoveState
from shard_node.admin.verifier import Verifier
from shard_node.cache import CountCache
from shard_node.feed import Feed
from shard_node.handoff.handoffs import Handoffs
from shard_node.leadership import Leadership
from shard_node.ownership import Ownership, SlotState
from shard_node.slot_figures import SlotFigures
from shard_node.watches import Watches
from shard_node.writer import Writer


class NodeMetrics(Collector):
    """Of one node. Asked by a thread of its own, it reads what the event loop's parts hold at that moment."""

    def __init__(
        self,
        name: str,
        writer: Writer,
        leadership: Leadership,
        ownership: Ownership,
        cache: CountCache,
        handoffs: Handoffs,
        feed: Feed,
        watches: Watches,
        slots: SlotFigures,
        verifier: Verifier,
    ) -> None:
        self._name = name
        self._writer = writer
        self._leadership = leadership
        self._ownership = ownership
        self._cache = cache
        self._handoffs = handoffs
        self._feed = feed
        self._watches = watches
        self._slots = slots
        self._verifier = verifier

    def collect(self) -> Iterator[Metric]:
        yield from self._of_writer()
        yield from self._of_cache()
        yield from self._of_slots()
        yield from self._of_moves()
        yield self._of_counts()
        yield _gauge("likering_feed_streams", "Streams of changes that routers read", self._feed.streams)
        yield _gauge(
            "likering_watched_posts",
            "Posts whose count somebody watches, once for each router worker",
            self._watches.watched_posts,
        )

    def _of_writer(self) -> Iterator[Metric]:
        writer, tally = self._writer, self._writer.tally
        leads = GaugeMetricFamily(
            "likering_writer_leads",
            "1 while this process is the node's writer and can prove it",
            labels=["node"],
        )
        leads.add_metric([self._name], int(self._leadership.leased))
        yield leads
        yield _gauge(
            "likering_writer_queued_operations", "Writes that wait for their transaction", writer.queued
        )
        yield _counter("likering_writer_operations", "Writes that were committed", tally.operations)
        yield _counters(
            "likering_writer_refused_operations", "Writes that were not executed", "code", dict(tally.refused)
        )
        yield _counters(
            "likering_writer_failed_transactions",
            "Transactions of likes that failed",
            "error",
            dict(tally.failed),
        )
        yield _histogram(
            "likering_writer_batch_operations", "Writes of one transaction", tally.batch_operations
        )
        yield _histogram(
            "likering_writer_queue_seconds",
            "How long the writes of a router's batch waited for their transaction",
            tally.queue_seconds,
        )
        yield _histogram(
            "likering_writer_commit_seconds", "How long transactions of likes took", tally.commit_seconds
        )

    def _of_cache(self) -> Iterator[Metric]:
        cache = self._cache
        yield _counter("likering_cache_hits", "Counts that the cache had", cache.tally.hits)
        yield _counter(
            "likering_cache_misses", "Counts that it did not have, or could not say", cache.tally.misses
        )
        yield _gauge("likering_cache_up", "1 while the cache answers", int(not cache.down))
        yield _gauge(
            "likering_cache_dirty_posts", "Posts that a refused write keeps out of the cache", cache.dirty
        )
        yield _counter(
            "likering_cache_generations", "How often the cache began anew, cold", cache.generations
        )

    def _of_slots(self) -> Iterator[Metric]:
        held = Counter(one.state for one in self._ownership.held.values())
        states = GaugeMetricFamily(
            "likering_node_slots", "Slots by what this node's database says of them", labels=["state"]
        )
        for state in SlotState:
            states.add_metric([state.value], held[state])
        yield states
        sizes, writes = self._slots.sizes, self._writer.tally.slots
        yield _gauge(
            "likering_node_rows",
            "Rows of the slots' tables, by the database's statistics",
            sum(rows for rows, _ in sizes.values()),
        )
        yield _gauge(
            "likering_node_bytes",
            "Size of the slots' tables and indexes",
            sum(size for _, size in sizes.values()),
        )
        rows = GaugeMetricFamily("likering_slot_rows", "Rows of a busy slot's tables", labels=["slot"])
        size = GaugeMetricFamily("likering_slot_bytes", "Size of a busy slot's tables", labels=["slot"])
        writes_of = CounterMetricFamily("likering_slot_writes", "Writes to a busy slot", labels=["slot"])
        for slot in self._slots.named:
            rows_of_slot, bytes_of_slot = sizes.get(slot, (0, 0))
            rows.add_metric([str(slot)], rows_of_slot)
            size.add_metric([str(slot)], bytes_of_slot)
            writes_of.add_metric([str(slot)], writes[slot])
        yield from (rows, size, writes_of)

    def _of_moves(self) -> Iterator[Metric]:
        seen = Counter(
            ("target" if move.target == self._name else "source", move.state) for move in self._handoffs.moves
        )
        moves = GaugeMetricFamily(
            "likering_moves", "Moves that this node takes part in, by state", labels=["role", "state"]
        )
        for role in ("source", "target"):
            for state in (MoveState.PLANNED, *sorted(UNDER_WAY), MoveState.ACTIVE, MoveState.MOVED):
                moves.add_metric([role, state.value], seen[role, state])
        yield moves
        tally = self._handoffs.tally
        yield _counters(
            "likering_moves_reached",
            "Steps of moves to this node, by the state reached",
            "state",
            dict(tally.reached),
        )
        yield _counter(
            "likering_move_failures", "Attempts of moves to this node that were given up", tally.failed
        )
        yield _histogram(
            "likering_move_pause_seconds",
            "How long a slot that moved here took no writes",
            tally.pause_seconds,
        )

    def _of_counts(self) -> Metric:
        verified_since = GaugeMetricFamily(
            "likering_counts_verified_since_timestamp_seconds",
            "Each count of this node was compared with its likes then or later",
            labels=[],
        )
        since = self._verifier.verified_since
        if since is not None:
            verified_since.add_metric([], since / 1e6)
        return verified_since


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)


def _counters(name: str, meaning: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family


def _histogram(name: str, meaning: str, distribution: Distribution) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=())
    distribution.tell(family)
    return family
