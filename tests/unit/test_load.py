"""What a node says of its own load."""

from __future__ import annotations

import pytest

from shard_node.load import WINDOW, Load


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
