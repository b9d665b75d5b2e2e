"""Rows a second, by a clock that only sleeping moves on."""

from __future__ import annotations

import pytest

from shard_node.row_budget import RowBudget


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Takes no time."""
        self.now += seconds


async def test_rows_keep_to_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all who take from it; a second may be saved up, a limit changed meanwhile."""
    clock = Clock()
    monkeypatch.setattr("shard_node.row_budget.asyncio.sleep", clock.sleep)
    budget = RowBudget(clock)
    await budget.take(10**6)
    assert clock.now == 0.0
    budget.limit(1000)
    for _ in range(5):
        await budget.take(1000)
    assert clock.now == pytest.approx(5.0)
    clock.now += 60
    await budget.take(2000)
    assert clock.now == pytest.approx(66.0)
