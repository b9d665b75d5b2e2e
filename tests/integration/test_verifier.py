"""A node's counts are proved in the background, on a real Postgres: what is wrong is found, and told once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from shard_node.admin import verifier as verifier_module
from shard_node.admin.counts import Counts
from shard_node.admin.drift import Drift
from shard_node.admin.slot_reads import SlotReads
from shard_node.admin.verifier import PUT_OFF, Verifier
from shard_node.ownership import HeldSlot, SlotState
from shard_node.packed_ids import pack
from shard_node.row_budget import RowBudget
from tests.integration.admin_node import AdminNode, admin_node, posts_in
from tests.integration.node_database import EPOCH, SLOTS

SLOT = 3
POSTS = posts_in(SLOT, 12)
OTHERS = posts_in(SLOT + 1, 2)
INTERVAL = 3600.0
FAST = 10**6
"""Rows a second."""
MICROS = 1_000_000


class Proved:
    """A node and its verifier, which thinks that it is later than it is."""

    def __init__(self, node: AdminNode) -> None:
        self.node = node
        self.later = 0.0
        """By so many seconds."""
        self.verifier = self.another()

    def another(self) -> Verifier:
        """As a process has that was just started."""
        found = Verifier(
            self.node.pool,
            self.node.counts,
            self.node.ownership,
            self.node.writer,
            INTERVAL,
            clock_us=lambda: time.time_ns() // 1000 + round(self.later * MICROS),
        )
        found.limit(FAST)
        return found

    async def round(self) -> int:
        """Compares what is due; returns how many looks that took."""
        looks = 0
        while await self.verifier.step():
            looks += 1
        return looks

    async def skew(self, post: str, by: int) -> None:
        await self.node.connection.execute(
            "UPDATE posts SET like_count = like_count + %s WHERE post_id = %s", [by, pack(post)]
        )

    def told(self, name: str) -> float | None:
        return self.node.registry.get_sample_value(f"likering_counts_{name}")

    async def stored(self, slot: int = SLOT) -> tuple[Any, ...]:
        """What is written down of a slot: drifted, whether it is under way, post number."""
        cursor = await self.node.connection.execute(
            "SELECT drifted, began IS NOT NULL, post_no FROM count_rounds WHERE slot = %s", [slot]
        )
        (row,) = await cursor.fetchall()
        return tuple(row)


@pytest.fixture
async def proved(database: str) -> AsyncIterator[Proved]:
    """Post n of SLOT has n + 1 likes; the next slot has posts too, the others have none."""
    async with admin_node(database) as node:
        for number, post in enumerate(POSTS):
            await node.write(*((True, post, f"u{user}") for user in range(number + 1)))
        await node.write(*((True, post, "u") for post in OTHERS))
        proved = Proved(node)
        assert await proved.round() == 0
        proved.later = INTERVAL
        yield proved


async def test_all_slots_are_gone_over_once_in_an_interval(proved: Proved) -> None:
    began = time.time() + INTERVAL
    assert await proved.round() == SLOTS
    assert proved.told("verified_posts_total") == len(POSTS) + len(OTHERS)
    assert proved.told("drifted_posts") == 0
    assert proved.verifier.verified_since is not None
    assert began - 1 <= proved.verifier.verified_since / MICROS <= time.time() + INTERVAL
    assert await proved.round() == 0
    proved.later += INTERVAL
    assert await proved.round() == SLOTS


async def test_a_wrong_count_is_found_told_and_mended(proved: Proved) -> None:
    await proved.skew(POSTS[3], 2)
    await proved.skew(OTHERS[0], -1)
    with structlog.testing.capture_logs() as logs:
        await proved.round()
    assert proved.told("drifted_posts") == 2
    wrong = [line["first"][0] for line in logs if line["log_level"] == "error"]
    assert [(one["post_id"], one["stored"], one["counted"]) for one in wrong] == [
        (POSTS[3], 6, 4),
        (OTHERS[0], 0, 1),
    ]
    assert [await proved.stored(slot) for slot in (SLOT, SLOT + 1, 0)] == [
        (True, False, 12),
        (True, False, 2),
        (False, False, 0),
    ]
    await proved.node.counts.repair(SLOT, EPOCH, [POSTS[3]])
    await proved.node.counts.repair(SLOT + 1, EPOCH, [OTHERS[0]])
    assert proved.told("drifted_posts") == 0
    assert (await proved.node.post(POSTS[3]))["count"] == 4
    proved.later += INTERVAL
    with structlog.testing.capture_logs() as logs:
        await proved.round()
    assert proved.told("drifted_posts") == 0
    assert not [line for line in logs if line["log_level"] == "error"]
    assert (await proved.stored())[0] is False


async def test_a_process_that_starts_goes_on_in_the_slot(
    proved: Proved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "PIECE_ROWS", 5)
    monkeypatch.setattr(verifier_module, "NOTE", 0.0)
    while not (await proved.stored())[1]:
        assert await proved.verifier.step()
    (_, _, place) = await proved.stored()
    assert 0 < place < len(POSTS)
    before = proved.told("verified_posts_total")
    proved.verifier = proved.another()
    await proved.round()
    assert before is not None
    assert proved.told("verified_posts_total") == len(POSTS) + len(OTHERS)
    assert await proved.another().step() is False


@pytest.mark.parametrize("ended", [True, False], ids=["after a round", "within a slot"])
async def test_a_process_that_starts_looks_at_once_for_what_was_wrong(
    proved: Proved, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """The one before took its knowledge with it, and the count still is wrong."""
    monkeypatch.setattr(verifier_module, "PIECE_ROWS", 5)
    await proved.skew(POSTS[0], 2)
    if ended:
        await proved.round()
    while not (await proved.stored())[0]:
        assert await proved.verifier.step()
    assert (await proved.stored())[1] is not ended
    node = proved.node
    node.registry = CollectorRegistry()
    reads = SlotReads(node.pool, node.ownership, node.leadership)
    node.counts = Counts(reads, node.ownership, node.leadership, node.writer, Drift(node.registry))
    proved.verifier = proved.another()
    assert proved.told("drifted_posts") == 0
    assert await proved.verifier.step()
    assert proved.told("drifted_posts") == 1


async def test_posts_that_come_meanwhile_do_not_keep_a_round_from_its_end(
    proved: Proved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "PIECE_ROWS", 1)
    looks = 0
    while await proved.verifier.step():
        looks += 1
        if looks > SLOT:  # its first look is over: slots come in their order
            await proved.node.write(*((True, post, "u") for post in posts_in(SLOT, 12 + 2 * looks)))
    assert looks == len(POSTS) + len(OTHERS) + SLOTS - 2
    assert proved.told("drifted_posts") == 0


async def test_nothing_is_compared_at_a_limit_of_zero(proved: Proved) -> None:
    proved.verifier.limit(0)
    assert await proved.round() == 0
    assert proved.told("verified_posts_total") == 0
    proved.verifier.limit(FAST)
    assert await proved.round() == SLOTS


async def test_likes_are_paid_for_at_the_limit(proved: Proved, monkeypatch: pytest.MonkeyPatch) -> None:
    """A post is looked at as a whole, however many likes it has: then it rests for longer."""
    slept: list[float] = []
    clock = [time.monotonic()]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(verifier_module, "REST", 0.0)
    proved.verifier._budget = RowBudget(lambda: clock[0])
    proved.verifier.limit(8)
    monkeypatch.setattr("shard_node.row_budget.asyncio.sleep", sleep)
    assert await proved.round() > SLOTS
    rows = len(POSTS) + len(OTHERS) + sum(range(13)) + 2
    assert sum(slept) == pytest.approx(rows / 8)


async def test_a_slot_that_is_frozen_is_left_alone_and_one_that_left_is_forgotten(proved: Proved) -> None:
    held = {slot: HeldSlot(EPOCH, SlotState.OWNER) for slot in range(SLOTS)}
    proved.node.ownership.replace({**held, SLOT: HeldSlot(EPOCH, SlotState.FROZEN, 1, 1)})
    assert await proved.round() == SLOTS - 1
    assert proved.verifier.verified_since is not None
    assert proved.verifier.verified_since / MICROS < time.time()
    held.pop(SLOT)
    proved.node.ownership.replace(held)
    assert await proved.round() == 0
    assert proved.verifier.verified_since / MICROS > time.time() + INTERVAL - 60
    # It is back, at another epoch: nothing of before is true, and it is due an interval later.
    proved.node.ownership.replace({**held, SLOT: HeldSlot(EPOCH + 2, SlotState.OWNER)})
    assert await proved.round() == 0
    proved.later += INTERVAL / 2
    assert await proved.round() == 0
    proved.later += INTERVAL / 2
    assert await proved.round() == SLOTS


async def test_without_a_lease_nothing_is_compared(proved: Proved) -> None:
    """Another process may be the writer by now. It is tried again after a while."""
    leased_until = proved.node.leadership._leased_until
    proved.node.leadership._leased_until = 0.0
    proved.node.leadership.proved = lambda began: None  # type: ignore[method-assign]
    looks = [await proved.verifier.step() for _ in range(SLOTS + 1)]
    assert looks == [False] * (SLOTS + 1)
    assert proved.told("verified_posts_total") == 0
    proved.node.leadership._leased_until = leased_until + 60
    assert await proved.round() == 0
    proved.later += PUT_OFF + 1
    assert await proved.round() == SLOTS
