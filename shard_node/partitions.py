"""The tables of a slot: a partition of each partitioned table, made and attached without stalling anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from likering.topology.move_names import partition
from shard_node.store import Connection, FenceLost

PARENTS = ("edges", "posts", "user_likes")
"""The partitioned tables."""
_INDEXES: Mapping[str, Sequence[LiteralString]] = {
    "edges": (
        "ALTER TABLE {} ADD PRIMARY KEY (post_no, user_id, slot)",
        "CREATE INDEX ON {} (post_no, like_place(coalesce(liked_at, rev), rev)) WHERE liked",
        "CREATE INDEX ON {} (rev)",
        "CREATE INDEX ON {} (first_rev) WHERE first_rev <> rev",
    ),
    "posts": (
        "ALTER TABLE {} ADD PRIMARY KEY (post_id, slot)",
        "CREATE UNIQUE INDEX ON {} (post_no, slot)",
    ),
    "user_likes": ("ALTER TABLE {} ADD PRIMARY KEY (user_id, since, slot)",),
}
"""As the schema has them: else attaching a table would make them, while everybody waits."""
_LOOK = 0.005
"""Seconds between two looks at whether transactions have ended."""
_PATIENCE = 10.0


async def create_partitions(connection: Connection, slots: Sequence[int]) -> None:
    """Makes the partitions of the slots, where there are none yet.

    LIKE and ATTACH instead of PARTITION OF: that one takes a lock on the parent that queues behind any reader and
    stalls every writer meanwhile.
    """
    made = False
    for slot in slots:
        for parent in PARENTS:
            name = partition(parent, slot)
            cursor = await connection.execute("SELECT to_regclass(%s::text)", [name])
            if (await cursor.fetchone()) != (None,):
                continue
            async with connection.transaction():
                await create_slot_table(connection, parent, name, indexes=True)
                await attach_partition(connection, parent, name, slot)
            made = True
    if made:
        await make_known(connection)


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


async def make_known(connection: Connection) -> None:
    """Returns when every session sees the partitions that have been attached up to now.

    Without this one may not, for as long as nothing else happens to the parent: a session that is reading the list of
    partitions while another one commits an ATTACH may take up the notice of it *before* it stores the list that it has
    read. It then finds no rows in the new partition, and says nothing. (Seen with Postgres 15 and 18;
    ``tests/stale_partitions.py`` shows it.) So whoever used the parents at the time is waited for, and then they are
    said to have changed once more: a list that is read after that is right. DETACH CONCURRENTLY does so by itself.

    ``connection`` is in autocommit. Raises TimeoutError when a transaction that uses the parents does not end.
    """
    parents = list(PARENTS)
    cursor = await connection.execute(
        "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE relation = ANY(%s::regclass[])"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        # Only these read or write rows; the stronger ones are of those who attach and detach.
        " AND mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') AND pid <> pg_backend_pid()",
        [parents],
    )
    using = [transaction for (transaction,) in await cursor.fetchall()]
    async with asyncio.timeout(_PATIENCE):
        while using:
            cursor = await connection.execute(
                "SELECT virtualxid FROM pg_locks WHERE locktype = 'virtualxid' AND virtualxid = ANY(%s)",
                [using],
            )
            using = [transaction for (transaction,) in await cursor.fetchall()]
            if using:
                await asyncio.sleep(_LOOK)
    async with connection.transaction():
        # What builds on it comes later in the log.
        await connection.execute("SET LOCAL synchronous_commit = off")
        for parent in parents:
            # The default as it is: it changes nothing but a row of the catalog, and takes a lock that nobody minds.
            await connection.execute(
                SQL("ALTER TABLE ONLY {} ALTER COLUMN slot SET STATISTICS -1").format(Identifier(parent))
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
    while True:
        cursor = await connection.execute(
            "SELECT EXISTS (SELECT FROM writer WHERE generation = %s),"
            " EXISTS (SELECT FROM slots WHERE slot = %s AND state <> 'moved')",
            [generation, slot],
        )
        row = await cursor.fetchone()
        assert row is not None
        leads, owned = row
        if not leads:
            raise FenceLost
        if owned:
            return False
        renamed = await _oids(connection, slot, names)
        if oids is not None:
            renamed = {
                parent: oid for parent, oid in renamed.items() if oids.get(partition(parent, slot)) == oid
            }
        if not renamed:
            return True
        try:
            await _rename(connection, slot, names, renamed, generation)
        except psycopg.errors.DivisionByZero:
            await connection.rollback()  # something has changed since: look again
        except psycopg.Error:
            await connection.rollback()
            raise
        else:
            return True


async def _oids(connection: Connection, slot: int, parents: Iterable[str]) -> dict[str, int]:
    """The oid of each parent's partition for the slot, where there is one."""
    names = {partition(parent, slot): parent for parent in parents}
    cursor = await connection.execute(
        "SELECT name, to_regclass(name)::oid::bigint FROM unnest(%s::text[]) AS name"
        " WHERE to_regclass(name) IS NOT NULL",
        [list(names)],
    )
    return {names[name]: oid for name, oid in await cursor.fetchall()}


async def _rename(
    connection: Connection, slot: int, names: Mapping[str, str], oids: Mapping[str, int], generation: int
) -> None:
    """Renames the slot's partitions of these oids. DivisionByZero, and no change, if they or the slot are not as told.

    In one round trip and without waiting for the disk, since commits wait meanwhile. That it may be undone by a crash
    does no harm: it is done again, and whatever builds on it comes later in the log.
    """
    async with connection.pipeline():
        await connection.execute("BEGIN")
        await connection.execute("SET LOCAL synchronous_commit = off")
        # The row first, as every commit has it: a commit holds it while it waits for a partition.
        await connection.execute("SET LOCAL lock_timeout = '500ms'")
        await hold_writer(connection, generation)
        # In a statement of its own: the one above may have waited, and sees nothing newer than its beginning.
        await connection.execute(
            "SELECT 1 / (NOT EXISTS (SELECT FROM slots WHERE slot = %s AND state <> 'moved') AND"
            " %s::oid[] = ARRAY(SELECT to_regclass(name)::oid FROM unnest(%s::text[]) WITH ORDINALITY AS"
            " given (name, position) ORDER BY position))::integer",
            [slot, list(oids.values()), [partition(parent, slot) for parent in oids]],
        )
        # Whoever uses the partition queues behind a rename that waits for a reader.
        await connection.execute("SET LOCAL lock_timeout = '30ms'")
        for parent in oids:
            await connection.execute(
                SQL("ALTER TABLE {} RENAME TO {}").format(
                    Identifier(partition(parent, slot)), Identifier(names[parent])
                )
            )
        await connection.execute("COMMIT")


async def hold_writer(connection: Connection, generation: int) -> None:
    """Keeps other processes from taking over, and commits waiting, until the end of the transaction.

    Ends it, by a division by zero, unless ``generation`` leads.
    """
    await connection.execute(
        "SELECT 1 / (SELECT count(*) FROM (SELECT FROM writer WHERE generation = %s FOR SHARE) AS held)",
        [generation],
    )
