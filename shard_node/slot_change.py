"""The transaction that changes the owned slots, behind a fence that it raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import psycopg

from shard_node import store
from shard_node.ownership import HeldSlot
from shard_node.store import Connection, Fence

SlotsJob = Callable[[Connection], Awaitable[None]]


class RefusedJob(Exception):
    """A job of ``change_slots`` found that there is nothing for it to do: its transaction is rolled back."""


class SlotsChanged(NamedTuple):
    """What is so from then on; ``last_rev`` is the highest revision."""

    slots_seq: int
    last_rev: int
    held: Mapping[int, HeldSlot]


async def change_slots(connection: Connection, fence: Fence, job: SlotsJob, last_rev: int) -> SlotsChanged:
    """Does the job and commits. Revisions go on above ``last_rev``. Raises FenceLost, and what the job raises."""
    # All in one round trip, COMMIT too, unless the job asks for a result: a slot's pause waits for it.
    try:
        async with connection.pipeline():
            await connection.execute("BEGIN")
            raising = await store.raise_slots_seq(connection, fence, last_rev)
            await job(connection)
            holding = await store.held_slots(connection)
            await connection.execute("COMMIT")
    except psycopg.errors.DivisionByZero as error:
        await connection.rollback()
        raise store.FenceLost from error
    except (psycopg.Error, RefusedJob):
        await connection.rollback()
        raise
    slots_seq, highest = await store.slots_seq_raised(raising)
    return SlotsChanged(slots_seq, highest, await store.slots_held(holding))
