"""The tables of a slot: a partition of each partitioned table, made and attached without stalling anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from likering.topology.move_names import partition
from shard_node.store import Connection, FenceLost

PARENTS = ("edges", "posts")
"""The partitioned tables."""
_INDEXES: Mapping[str, Sequence[LiteralString]] = {
    "edges": (
        "ALTER TABLE {} ADD PRIMARY KEY (post_id, user_id, slot)",
        "CREATE INDEX ON {} (post_id, rev) WHERE liked",
    ),
    "posts": ("ALTER TABLE {} ADD PRIMARY KEY (post_id, slot)",),
}
"""As the schema has them: else attaching a table would make them, while everybody waits."""


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


async def index_slot_table(connection: Connection, parent: str, name: str) -> None:
    """Makes the indexes that ``create_slot_table`` left out."""
    for statement in _INDEXES[parent]:
        await connection.execute(SQL(statement).format(Identifier(name)))


async def attach_partition(connection: Connection, parent: str, name: str, slot: int) -> None:
    """Makes a table the partition of a slot."""
    await connection.execute(
        SQL("ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES IN ({slot})").format(
            parent=Identifier(parent), name=Identifier(name), slot=slot
        )
    )


async def rename_unowned(
    connection: Connection,
    slot: int,
    names: Mapping[str, str],
    generation: int,
    oids: Mapping[str, int] | None = None,
) -> bool:
    """Gives the partitions of a slot that is not this database's other names (by parent), of which nobody else knows.

    What is done to a table by its partition's name may hit the one of a later move: by a process that was stopped in
    between, or just by a look that is no longer true. So whoever wants a partition gone first takes its name away, in
    one transaction that holds the fence and has looked at the slot's row, and only if it still is the table of
    ``oids``.
    Returns False, and changes nothing, when the slot is owned or frozen here. Raises FenceLost.
    """
    owned = False
    async with connection.transaction() as transaction:
        # The row first, as every commit has it: a commit holds it while it waits for a partition.
        await connection.execute("SET LOCAL lock_timeout = '500ms'")
        cursor = await connection.execute(
            "SELECT 1 FROM writer WHERE generation = %s FOR SHARE", [generation]
        )
        if await cursor.fetchone() is None:
            raise FenceLost
        cursor = await connection.execute("SELECT 1 FROM slots WHERE slot = %s AND state <> 'moved'", [slot])
        owned = await cursor.fetchone() is not None
        if owned:
            raise psycopg.Rollback(transaction)
        # Commits wait meanwhile, and whoever uses the partition queues behind a rename that waits for a reader.
        await connection.execute("SET LOCAL lock_timeout = '30ms'")
        for parent, new_name in names.items():
            name = partition(parent, slot)
            cursor = await connection.execute("SELECT to_regclass(%s::text)::oid::bigint", [name])
            row = await cursor.fetchone()
            if row is None or row[0] is None or (oids is not None and oids.get(name) != row[0]):
                continue
            await connection.execute(
                SQL("ALTER TABLE {} RENAME TO {}").format(Identifier(name), Identifier(new_name))
            )
    return not owned
