"""So many a second, and a count of the others."""

from __future__ import annotations

import pytest

from likering import throttle
from likering.throttle import Throttle


def test_what_is_too_much_is_counted_and_told_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(throttle, "monotonic", lambda: now)
    lines = Throttle(per_second=4)
    assert [lines.admit() for _ in range(5)] == [0, 0, 0, 0, None]
    now += 0.25
    assert [lines.admit(), lines.admit()] == [1, None]
    now += 60
    assert [lines.admit() for _ in range(5)] == [1, 0, 0, 0, None]
