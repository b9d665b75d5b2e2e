"""What a node says of its own load."""

from __future__ import annotations

import pytest

from shard_node.load import IN_USE, WINDOW, Load


def test_writes_and_their_times_are_of_the_last_seconds() -> None:
    """Weighted by the writes of each unit; what is older is forgotten."""
    now = 100.0
    load = Load(clock=lambda: now)
    load.committed([(99, now - 0.010), (1, now - 0.500)])
    assert load.writes_per_second == pytest.approx(100 / WINDOW)
    assert load.percentile(0.99) == pytest.approx(0.010)
    assert load.percentile(1.0) == pytest.approx(0.500)
    now += WINDOW + 0.1
    assert load.writes_per_second == 0.0
    assert load.percentile(0.99) == 0.0


def test_a_node_is_in_use_for_a_while_after_each_call() -> None:
    now = 100.0
    load = Load(clock=lambda: now)
    seen = [load.in_use]
    load.called()
    seen.append(load.in_use)
    now += IN_USE
    seen.append(load.in_use)
    assert seen == [False, True, False]
