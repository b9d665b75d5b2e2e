"""Turns for large requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from likering.errors import RouterOverloaded
from likering.serving.admission import Admission


async def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that has gone as far as it gets in a tick."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_what_fits_is_served_at_once() -> None:
    admission = Admission(served=10)
    await admission.enter(4)
    await admission.enter(6)
    assert repr(admission) == "<Admission 10 bytes served, 0 waiting>"


async def test_a_request_above_the_limit_is_served_alone() -> None:
    admission = Admission(served=10)
    await admission.enter(100)
    other = await _begun(admission.enter(1))
    assert not other.done()
    admission.leave(100)
    await other


async def test_turns_come_in_order_though_a_later_one_would_fit() -> None:
    admission = Admission(served=10)
    await admission.enter(6)
    large = await _begun(admission.enter(8))
    small = await _begun(admission.enter(2))
    assert not large.done()
    assert not small.done()
    admission.leave(6)
    await large
    await small


async def test_too_much_waiting_is_refused() -> None:
    admission = Admission(served=10, waiting=5)
    await admission.enter(10)
    waiting = await _begun(admission.enter(5))
    with pytest.raises(RouterOverloaded):
        await admission.enter(1)
    admission.leave(10)
    await waiting


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    admission = Admission(served=10, waiting=12)
    await admission.enter(4)
    gone = await _begun(admission.enter(8))
    behind = await _begun(admission.enter(4))
    gone.cancel()
    await asyncio.wait([gone])
    await behind
    assert repr(admission) == "<Admission 8 bytes served, 0 waiting>"


async def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    admission = Admission(served=10)
    await admission.enter(10)
    gone = await _begun(admission.enter(10))
    admission.leave(10)  # its turn has come, it has not noticed yet
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    assert repr(admission) == "<Admission 0 bytes served, 0 waiting>"
