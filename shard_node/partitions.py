"""The tables of a slot: a partition of each partitioned table, made and attached without stalling anybody."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Identifier

from likering.topology.move_names import partition
from shard_node.store import Connection

PARENTS = ("edges", "posts")
"""The partitioned tables."""


async def create_partitions(connection: Connection, slots: Sequence[int]) -> None:
    """Makes the partitions of the slots, where there are none yet.

    LIKE and ATTACH instead of PARTITION OF: that one takes a lock on the parent that queues behind any reader and
    stalls every writer meanwhile.
    """
    for slot in slots:
        for parent in PARENTS:
            name = partition(parent, slot)
            cursor = await connection.execute("SELECT to_regclass(%s::text)", [name])
            if (await cursor.fetchone()) != (None,):
                continue
            async with connection.transaction():
                await create_slot_table(connection, parent, name, indexes=True)
                await attach_partition(connection, parent, name, slot)


async def create_slot_table(connection: Connection, parent: str, name: str, *, indexes: bool) -> None:
    """Makes an empty table for the rows of one slot. It is no partition yet."""
    # A post's row changes again and again: with room in its page the change touches no index (HOT).
    room = SQL(" WITH (fillfactor = 80)" if parent == "posts" else "")
    what = SQL("INCLUDING ALL" if indexes else "INCLUDING ALL EXCLUDING INDEXES")
    await connection.execute(
        SQL("CREATE TABLE {name} (LIKE {parent} {what}){room}").format(
            name=Identifier(name), parent=Identifier(parent), what=what, room=room
        )
    )


async def attach_partition(connection: Connection, parent: str, name: str, slot: int) -> None:
    """Makes a table the partition of a slot."""
    await connection.execute(
        SQL("ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES IN ({slot})").format(
            parent=Identifier(parent), name=Identifier(name), slot=slot
        )
    )
