"""From users to shards and cores: arithmetic that can be checked by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likering.capacity.sizing import (
    FEW_OPERATIONS,
    GATHER_SECONDS,
    Costs,
    Machines,
    Workload,
    batches_between,
    largest_share,
    remarks,
    size,
    slots_for,
)
from likering.cli.sizing import dearer
from likering.ring.hashing import MAX_SLOT_COUNT
from router.pace import LONGEST_OF_ALL

# 86,400 likes a day are one a second.
WORKLOAD = Workload(
    users=86_400,
    likes_per_user_day=1000,
    peak=3,
    reads_per_like=10,
    posts_per_read=20,
    retention_days=100,
    copies=3,
)
COSTS = Costs(
    bytes_per_like=200,
    likes_per_router_core=5_000,
    likes_per_node_core=10_000,
    likes_per_postgres_core=2_000,
    counts_per_router_core=50_000,
    counts_per_node_core=100_000,
    batches_per_router_core=1e9,
    batches_per_node_core=1e9,
)
"""Batches cost nothing, so that the other figures are round."""
MACHINES = Machines(disk_bytes=1e12, fullness=0.5, utilisation=0.5, workers=2)


def test_every_figure_of_a_small_service() -> None:
    found = size(WORKLOAD, COSTS, MACHINES)
    assert (found.likes_mean, found.likes_peak) == (1_000, 3_000)
    assert (found.counts_peak, found.read_calls_peak) == (30_000, 1_500)
    assert found.likes_kept == 86_400_000 * 100
    assert found.data_bytes == 86_400_000 * 100 * 200  # 1.728 TB
    assert found.disk_bytes == found.data_bytes * 3 / 0.5
    assert found.growth_bytes_month == 86_400_000 * 30 * 200
    assert found.growth_disk_month == found.growth_bytes_month * 6
    # 0.3 loops of writes and 0.3 of reads, half busy; 1.728 TB on disks that take 0.5.
    assert (found.shards_for_load, found.shards_for_storage, found.shards) == (2, 4, 4)
    assert (found.slots, found.slots_per_shard, found.largest_share) == (256, 64, 1.0)
    assert found.likes_peak_shard == 750
    assert found.postgres_disk == pytest.approx(1.728e12 / 4 / 0.5)
    assert found.postgres_memory == pytest.approx(86_400_000 * 7 * 200 / 4)
    assert found.postgres_cores == 2  # one would do, and has nobody beside it
    # 0.6 loops of each, half busy, two a router: two routers, and one to spare.
    assert (found.routers, found.router_cores) == (3, 6)
    assert found.cores == found.router_cores + 4 * 2 + 4 * 3 * 2
    assert remarks(found) == ["Storage sets the number of shards, not load: larger disks mean fewer of them."]


def test_a_batch_has_what_comes_for_a_node_while_a_worker_gathers() -> None:
    """Of pages each node of which it has posts; likes and counts apart."""
    assert GATHER_SECONDS == LONGEST_OF_ALL
    assert batches_between(1, 1, likes=0, counts=100_000, posts_per_read=20) == pytest.approx(10)
    assert batches_between(3, 4, likes=1e6, counts=1e9, posts_per_read=20) == pytest.approx(2 * 3 * 4 * 10)
    # A page a second. On very many nodes each of its posts is a batch; of two nodes, one has none of three in 1 of 8.
    assert batches_between(1000, 10**9, likes=1, counts=20, posts_per_read=20) == pytest.approx(1 + 20)
    assert batches_between(1000, 2, likes=0, counts=3, posts_per_read=3) == pytest.approx(
        2 * (1 - 1 / 8), rel=1e-3
    )


def test_what_batches_cost_is_paid_by_routers_and_nodes() -> None:
    """Each as much as the other here: what they make more of are loops, and with them batches."""
    costs = replace(COSTS, batches_per_router_core=250, batches_per_node_core=250)
    free, dear = (size(WORKLOAD, one, MACHINES) for one in (COSTS, costs))
    assert dear.shards_for_load > free.shards_for_load
    assert dear.routers > free.routers
    # The loops that are planned do what there is to do, half busy.
    assert 0.6 + dear.batches_peak / 250 <= 0.5 * dear.shards_for_load
    assert 1.2 + dear.batches_peak / 250 <= 0.5 * (dear.routers - 1) * MACHINES.workers


def test_a_ring_that_is_asked_too_much_is_told_that_its_batches_are_small() -> None:
    """More nodes make them smaller: at some ratio of reads a ring tips over."""
    plans = [size(replace(Workload(), reads_per_like=reads), Costs(), Machines()) for reads in (10, 500)]
    assert [found.operations_per_batch > FEW_OPERATIONS for found in plans] == [True, False]
    assert plans[1].shards > 50 * plans[0].shards
    assert "keep pages for a second" in remarks(plans[1])[-1]
    assert not any("keep pages" in remark for remark in remarks(plans[0]))


def test_the_fullest_shard_fits_on_its_disk() -> None:
    """Slots do not divide evenly."""
    for days in range(100, 900, 37):
        found = size(replace(WORKLOAD, retention_days=days), COSTS, MACHINES)
        assert found.postgres_disk <= MACHINES.disk_bytes


def test_slots_are_a_power_of_two_with_room_to_grow() -> None:
    assert [slots_for(shards) for shards in (1, 2, 4, 5, 81, 256, 1000, 100_000)] == [
        *(64, 128, 256, 512, 8192),
        *(MAX_SLOT_COUNT,) * 3,
    ]
    assert largest_share(3) == 86 * 3 / 256


def test_a_ring_that_is_too_fine_or_has_too_many_shards_is_told() -> None:
    many = size(replace(WORKLOAD, retention_days=800_000), COSTS, MACHINES)
    assert many.shards > MAX_SLOT_COUNT
    assert "at most 16,384 slots" in remarks(many)[0]
    coarse = size(replace(WORKLOAD, retention_days=24_000), COSTS, MACHINES)
    assert MAX_SLOT_COUNT // 32 < coarse.shards < MAX_SLOT_COUNT
    assert "slots a shard" in remarks(coarse)[0]
    busy = size(replace(WORKLOAD, retention_days=1, reads_per_like=1000), COSTS, MACHINES)
    assert "Load sets" in remarks(busy)[-1]


@given(
    field=st.sampled_from(
        ["users", "likes_per_user_day", "peak", "reads_per_like", "retention_days", "copies"]
    ),
    factor=st.integers(2, 20),
)
def test_more_of_anything_never_needs_less(field: str, factor: int) -> None:
    before = size(WORKLOAD, Costs(), MACHINES)
    after = size(replace(WORKLOAD, **{field: getattr(WORKLOAD, field) * factor}), Costs(), MACHINES)
    for name in ("shards", "slots", "routers", "cores", "disk_bytes"):
        assert getattr(after, name) >= getattr(before, name)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (WORKLOAD, {"users": 0}),
        (WORKLOAD, {"peak": 0.5}),
        (WORKLOAD, {"likes_per_user_day": float("nan")}),
        (WORKLOAD, {"users": 10**30}),
        (WORKLOAD, {"reads_per_like": -1.0}),
        (WORKLOAD, {"peak": float("inf")}),
        (COSTS, {"bytes_per_like": 0}),
        (COSTS, {"bytes_per_like": 1e-300}),
        (MACHINES, {"fullness": 1.2}),
        (MACHINES, {"utilisation": 0}),
    ],
)
def test_what_makes_no_sense_is_refused(part: Any, change: dict[str, float]) -> None:
    parts: list[Any] = [WORKLOAD, COSTS, MACHINES]
    parts[parts.index(part)] = replace(part, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        size(*parts)


@given(
    users=st.sampled_from([1, 10**9, 10**18]),
    likes=st.sampled_from([1e-9, 1.0, 1e18]),
    reads=st.sampled_from([0.0, 1.0, 1e18]),
    posts=st.sampled_from([1, 200]),
    disk=st.sampled_from([1e-9, 1e12, 1e18]),
    utilisation=st.sampled_from([1e-9, 1.0]),
)
def test_whatever_is_not_refused_has_a_size(
    users: int, likes: float, reads: float, posts: int, disk: float, utilisation: float
) -> None:
    """However little sense it makes: no overflow, and an end."""
    workload = Workload(users=users, likes_per_user_day=likes, reads_per_like=reads, posts_per_read=posts)
    found = size(workload, Costs(), Machines(disk_bytes=disk, utilisation=utilisation))
    assert all(
        value > 0 or name in ("counts_peak", "read_calls_peak") for name, value in asdict(found).items()
    )
    assert all(remarks(found))


def test_what_costs_more_than_twice_the_assumption_is_named() -> None:
    assert dearer(COSTS, COSTS) == []
    better = Costs(
        **{name: value * (0.5 if name == "bytes_per_like" else 2) for name, value in asdict(COSTS).items()}
    )
    assert dearer(COSTS, better) == []
    worse = replace(COSTS, bytes_per_like=500, counts_per_node_core=40_000, likes_per_node_core=6_000)
    assert dearer(COSTS, worse) == ["bytes_per_like", "counts_per_node_core"]
