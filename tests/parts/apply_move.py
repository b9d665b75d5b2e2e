"""``python -m tests.parts.apply_move <topology DSN> <slot> <target>``: begins a move, says so, and waits for ever."""

from __future__ import annotations

import asyncio
import sys

from likering.ring.plan import Move
from likering.topology.postgres import PostgresTopologyStore
from likering.topology.postgres_moves import PostgresMoveStore


async def apply(dsn: str, slot: int, target: str) -> int:
    """Begins the move of a slot from its owner to another node; returns the number of the move."""
    store, moves = PostgresTopologyStore(dsn), PostgresMoveStore(dsn)
    try:
        topology = await store.get()
        planned = Move(slot, topology.owners[slot], target, topology.epochs[slot])
        resize = await moves.apply(topology.version, [planned], {}, "test")
        (move,) = await moves.moves(resize=resize, ended=True)
    finally:
        await store.close()
        await moves.close()
    return move.move


async def _main() -> None:
    dsn, slot, target = sys.argv[1:]
    print(await apply(dsn, int(slot), target), flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
