"""From users and their habits to requests, storage, shards, slots, routers and cores: arithmetic, no I/O.

docs/capacity.md has the formulas, and where the assumptions come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from likering.ring.hashing import MAX_SLOT_COUNT

DAY: Final = 86_400
MONTH_DAYS: Final = 30
BYTES_PER_LIKE: Final = 200.0
"""Of the posts' and the users' side with all indexes, in one copy. docs/benchmarks.md: scripts/compare storage."""
SLOTS_PER_SHARD: Final = 32
"""At least so many, or slots are too coarse to share out evenly, and to move one by one."""
FEWEST_SLOTS: Final = 64
FEWEST_ROUTERS: Final = 2
FEWEST_POSTGRES_CORES: Final = 2
NODE_CORES: Final = 2
"""A node's process has one event loop; its cache and what runs beside share the other core."""
SMALLEST_MEMORY: Final = 8 * 2**30
_LEAST: Final = 1e-9
_MOST: Final = 1e18
"""What is beyond is no cluster, and would overflow."""
GATHER_SECONDS: Final = 0.1
"""For so long a router's worker gathers what is for one node when it is busy: at most, see router/pace.py."""
FEW_OPERATIONS: Final = 5
"""Of a batch: with fewer, what it costs to call a node is most of what an operation costs."""
WORKING_SET_DAYS: Final = 7
"""Likes so young are what feeds, lists and repetitions touch: they should fit into a Postgres' memory."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the cluster. ``peak`` is the busiest second ÷ the mean."""

    users: int = 100_000_000
    likes_per_user_day: float = 7.7
    peak: float = 3.0
    reads_per_like: float = 40.0
    """Counts that the cluster is asked for, for each like that is made; what callers keep or watch is not asked for."""
    posts_per_read: int = 20
    """Counts of one call: a page of posts."""
    retention_days: int = 730
    """For how long a like is kept."""
    copies: int = 3
    """Postgres instances per shard, the primary included."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a core does in a second, and what a like takes of the disk: the measured assumptions."""

    bytes_per_like: float = BYTES_PER_LIKE
    likes_per_router_core: float = 6_000.0
    """Each a call of its own."""
    likes_per_node_core: float = 25_000.0
    likes_per_postgres_core: float = 15_000.0
    counts_per_router_core: float = 80_000.0
    """Read by pages."""
    counts_per_node_core: float = 180_000.0
    batches_per_router_core: float = 5_000.0
    """Calls from a router to a node, with one operation each: what a batch costs, whatever it carries."""
    batches_per_node_core: float = 2_500.0


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to build of, and how full it may get."""

    disk_bytes: float = 2e12
    """Of one Postgres."""
    fullness: float = 0.7
    """Of a disk: the rest is for WAL, vacuum and the copies of moving slots."""
    utilisation: float = 0.5
    """Of a core at the peak: above it queues grow, and the loss of a part would overload the others."""
    workers: int = 4
    """Of a router; each has a core."""


@dataclass(frozen=True, slots=True)
class Size:
    """The cluster. Rates are per second; bytes are of one copy where nothing else is said."""

    likes_mean: float
    likes_peak: float
    counts_peak: float
    read_calls_peak: float
    batches_peak: float
    """Calls between routers and nodes."""
    operations_per_batch: float
    likes_kept: float
    data_bytes: float
    disk_bytes: float
    """Of all copies, with the room that disks need."""
    growth_bytes_month: float
    growth_disk_month: float
    shards_for_storage: int
    shards_for_load: int
    shards: int
    slots: int
    slots_per_shard: float
    largest_share: float
    """Of the fullest shard ÷ the mean: slots do not divide evenly."""
    likes_peak_shard: float
    postgres_disk: float
    postgres_memory: float
    postgres_cores: int
    routers: int
    router_cores: int
    node_cores: int
    all_postgres_cores: int
    cores: int


def size(workload: Workload, costs: Costs, machines: Machines) -> Size:
    """How large the cluster has to be. Raises ValueError for what is not a workload."""
    _check(workload, costs, machines)
    likes_day = workload.users * workload.likes_per_user_day
    likes_mean = likes_day / DAY
    likes_peak = likes_mean * workload.peak
    counts_peak = likes_peak * workload.reads_per_like
    likes_kept = likes_day * workload.retention_days
    data = likes_kept * costs.bytes_per_like
    growth = likes_day * MONTH_DAYS * costs.bytes_per_like

    for_storage = math.ceil(data / (machines.disk_bytes * machines.fullness))
    carried = _carried(workload, costs, machines, likes_peak, for_storage)
    shards = max(carried.for_load, for_storage)
    # Slots do not divide evenly, and the fullest shard is to fit as well.
    room = machines.disk_bytes * machines.fullness
    while shards < MAX_SLOT_COUNT and data / shards * largest_share(shards) > room:
        shards += 1
    slots, largest = slots_for(shards), largest_share(shards)
    likes_peak_shard = likes_peak / shards * largest

    # One more than needed: the others carry on while it is replaced.
    routers = max(FEWEST_ROUTERS, math.ceil(carried.workers / machines.workers) + 1)
    postgres_cores = max(
        FEWEST_POSTGRES_CORES,
        math.ceil(likes_peak_shard / costs.likes_per_postgres_core / machines.utilisation),
    )
    recent = likes_day * min(WORKING_SET_DAYS, workload.retention_days) * costs.bytes_per_like / shards
    all_postgres_cores = postgres_cores * workload.copies * shards
    return Size(
        likes_mean=likes_mean,
        likes_peak=likes_peak,
        counts_peak=counts_peak,
        read_calls_peak=counts_peak / workload.posts_per_read,
        batches_peak=carried.batches,
        operations_per_batch=(likes_peak + counts_peak) / carried.batches,
        likes_kept=likes_kept,
        data_bytes=data,
        disk_bytes=data * workload.copies / machines.fullness,
        growth_bytes_month=growth,
        growth_disk_month=growth * workload.copies / machines.fullness,
        shards_for_storage=for_storage,
        shards_for_load=carried.for_load,
        shards=shards,
        slots=slots,
        slots_per_shard=slots / shards,
        largest_share=largest,
        likes_peak_shard=likes_peak_shard,
        postgres_disk=data / shards * largest / machines.fullness,
        postgres_memory=max(float(SMALLEST_MEMORY), recent),
        postgres_cores=postgres_cores,
        routers=routers,
        router_cores=routers * machines.workers,
        node_cores=shards * NODE_CORES,
        all_postgres_cores=all_postgres_cores,
        cores=routers * machines.workers + shards * NODE_CORES + all_postgres_cores,
    )


class _Carried(NamedTuple):
    """What it takes to carry the load: event loops of routers and of nodes, and the calls between them a second."""

    workers: int
    for_load: int
    batches: float


def _carried(
    workload: Workload, costs: Costs, machines: Machines, likes_peak: float, for_storage: int
) -> _Carried:
    """The smallest number of workers and shards that carries the load, with as many shards as storage wants.

    Each worker calls each node, so more of both make more and smaller batches, which need more of both. There is an
    end to that: no batch has less than one operation.
    """
    counts_peak = likes_peak * workload.reads_per_like
    of_router = likes_peak / costs.likes_per_router_core + counts_peak / costs.counts_per_router_core
    of_node = likes_peak / costs.likes_per_node_core + counts_peak / costs.counts_per_node_core
    workers, for_load = 1, 1
    while True:
        shards = max(for_load, for_storage)
        batches = batches_between(workers, shards, likes_peak, counts_peak, workload.posts_per_read)
        # A node's process writes and reads on one event loop, so load is counted in those, and storage in disks.
        router_loops = (of_router + batches / costs.batches_per_router_core) / machines.utilisation
        node_loops = (of_node + batches / costs.batches_per_node_core) / machines.utilisation
        if router_loops <= workers and node_loops <= for_load:
            return _Carried(workers, for_load, batches)
        workers, for_load = max(workers, math.ceil(router_loops)), max(for_load, math.ceil(node_loops))


def batches_between(workers: int, shards: int, likes: float, counts: float, posts_per_read: int) -> float:
    """Calls a second from so many workers to so many nodes, for so many likes and counts a second.

    Each worker gathers for each node, writes and reads apart, and sends what has come in ``GATHER_SECONDS`` at once. A
    page of counts comes to as many nodes as its posts, placed by hash, happen to lie on.
    """
    nodes_of_page = -shards * math.expm1(posts_per_read * math.log1p(-1 / shards)) if shards > 1 else 1.0
    lanes = workers * shards
    windows = lanes / GATHER_SECONDS
    return sum(
        -windows * math.expm1(-arrivals / windows)
        for arrivals in (likes, counts / posts_per_read * nodes_of_page)
    )


def slots_for(shards: int) -> int:
    """The power of two that gives each of twice as many shards its slots, if there is one: clusters grow."""
    wanted = 2 * shards * SLOTS_PER_SHARD
    return min(MAX_SLOT_COUNT, max(FEWEST_SLOTS, 1 << (wanted - 1).bit_length()))


def largest_share(shards: int) -> float:
    """How much the fullest of so many shards holds, ÷ the mean."""
    slots = slots_for(shards)
    return math.ceil(slots / shards) * shards / slots


def remarks(found: Size) -> list[str]:
    """What the figures do not say by themselves."""
    said = []
    for_load = found.shards_for_load > found.shards_for_storage
    if found.shards > MAX_SLOT_COUNT:
        way = "answer reads nearer to who reads" if for_load else "take larger disks"
        said.append(f"A ring has at most {MAX_SLOT_COUNT:,} slots, so not so many shards: {way}.")
    elif found.slots_per_shard < SLOTS_PER_SHARD:
        cure = (
            ""
            if for_load
            else f": take larger disks, or fewer shards than {MAX_SLOT_COUNT // SLOTS_PER_SHARD}"
        )
        said.append(
            f"With {found.slots_per_shard:.1f} slots a shard the fullest one has {found.largest_share:.2f} times its"
            f" share{cure}."
        )
    if found.shards_for_storage > found.shards_for_load:
        said.append("Storage sets the number of shards, not load: larger disks mean fewer of them.")
    elif for_load:
        said.append("Load sets the number of shards, not storage: smaller disks will do.")
    if for_load and found.operations_per_batch < FEW_OPERATIONS:
        said.append(
            f"A batch between router and node carries {found.operations_per_batch:.1f} operations, so batches are"
            " what costs: the reads are too many for a ring, whose routers each call each node. Have callers watch"
            " posts, or keep pages for a second."
        )
    return said


def _check(workload: Workload, costs: Costs, machines: Machines) -> None:
    for part in (workload, costs, machines):
        for name in part.__slots__:
            value = getattr(part, name)
            if not _LEAST <= value <= _MOST and not (name == "reads_per_like" and value == 0):
                raise ValueError(f"{name} must be above 0 and no more than {_MOST:g}, not {value}")
    if workload.peak < 1:
        raise ValueError(f"peak is the busiest second ÷ the mean, so at least 1, not {workload.peak}")
    for name in ("fullness", "utilisation"):
        if getattr(machines, name) > 1:
            raise ValueError(f"{name} is a share, at most 1, not {getattr(machines, name)}")
