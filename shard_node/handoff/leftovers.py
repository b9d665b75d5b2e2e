"""Finds and drops what moves have left in this node's database: of dead attempts, of moves that ended.

Everything but a partition is named by its attempt. What is listed before the moves are read, and belongs to no current
attempt then, belongs to none that is to come either: it can be dropped whoever made it. A partition has its slot's
name, which a later attempt uses again, so that name is taken away first (``partitions.rename_unowned``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from psycopg.errors import ObjectInUse
from psycopg.sql import SQL, Identifier

from likering.topology.move_names import (
    Attempt,
    TableName,
    parse_replication,
    parse_table,
    partition,
)
from likering.topology.moves import MoveState, MoveStore, SlotMove
from shard_node.handoff.source import detach
from shard_node.partitions import PARENTS, rename_unowned
from shard_node.store import Connection

log = structlog.get_logger(__name__)

_REPLICATING = frozenset(
    (MoveState.COPYING, MoveState.CATCHING_UP, MoveState.FREEZING, MoveState.COMMITTED, MoveState.ACTIVATING)
)
_TRIES = 5
_PUBLISHING = _REPLICATING | {MoveState.ACTIVE}
"""The source's part goes last, or the target's would complain until it goes too."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Names of what a node's database holds of moves, and of slots' tables."""

    publications: Sequence[str]
    subscriptions: Sequence[str]
    replication_slots: Sequence[str]
    tables: Sequence[str]
    oids: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Of the tables: a later table may have the name of an earlier one."""
    sealed: Sequence[int] = field(default_factory=list)
    """The moves of which there are seals and probes."""

    @property
    def moves(self) -> set[int]:
        """The moves that tables are named by, and those of the seals."""
        named = {table.move for table in map(parse_table, self.tables) if table is not None}
        return {move for move in named if move is not None}.union(self.sealed)


async def take_inventory(connection: Connection) -> Inventory:
    """Lists what is there."""
    cursor = await connection.execute(
        """
        SELECT ARRAY(SELECT pubname::text FROM pg_publication WHERE pubname LIKE 'likering\\_s%' ORDER BY 1),
               ARRAY(SELECT subname::text FROM pg_subscription
                     WHERE subname LIKE 'likering\\_s%'
                       AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1),
               ARRAY(SELECT slot_name::text FROM pg_replication_slots
                     WHERE slot_name LIKE 'likering\\_s%' AND database = current_database() ORDER BY 1),
               (SELECT coalesce(jsonb_object_agg(relname, oid::bigint), '{}') FROM pg_class
                WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
                  AND relname ~ '^(edges|posts|user_likes)_s[0-9]'),
               ARRAY(SELECT DISTINCT move FROM seals ORDER BY 1)
        """
    )
    row = await cursor.fetchone()
    assert row is not None
    publications, subscriptions, replication_slots, oids, sealed = row
    return Inventory(publications, subscriptions, replication_slots, sorted(oids), oids, sealed)


def superfluous(
    inventory: Inventory,
    moves: Iterable[SlotMove],
    ended: Collection[int],
    node_name: str,
    own: Collection[int],
) -> Inventory:
    """What of it nobody needs.

    ``moves``: those that are begun and not settled. ``ended``: those of the inventory's that have ended, or never were.
    ``own``: the slots that the database or the topology gives to the node.
    """
    by_number = {move.move: move for move in moves}
    passing = {
        move.slot
        for move in by_number.values()
        if (move.target == node_name and move.state in _REPLICATING)
        or (move.source == node_name and move.state is MoveState.ACTIVE)
    }

    def needed_by(name: str, states: frozenset[MoveState]) -> bool:
        attempt = parse_replication(name)
        return attempt is None or _current(by_number, attempt, states)

    def needed(name: str) -> bool:
        table = parse_table(name)
        if table is None:
            return True
        if table.move is None:
            return table.slot in own or table.slot in passing
        if table.attempt is None:
            return table.move not in ended
        return _current(by_number, Attempt(table.slot, table.move, table.attempt), _REPLICATING)

    return Inventory(
        publications=[name for name in inventory.publications if not needed_by(name, _PUBLISHING)],
        subscriptions=[name for name in inventory.subscriptions if not needed_by(name, _REPLICATING)],
        replication_slots=[name for name in inventory.replication_slots if not needed_by(name, _PUBLISHING)],
        tables=[name for name in inventory.tables if not needed(name)],
        oids=inventory.oids,
        sealed=[number for number in inventory.sealed if number in ended],
    )


async def clear(
    connection: Connection,
    moves: MoveStore,
    node_name: str,
    own: Callable[[], Collection[int]],
    generation: int,
) -> int:
    """Drops what nobody needs; returns how many things that were. ``connection`` is in autocommit.

    ``own``: see ``superfluous``; it is asked after the inventory, for a slot may have come meanwhile. ``generation``:
    of this process; raises FenceLost when another one has taken over.
    """
    inventory = await take_inventory(connection)
    ended = await moves.ended(inventory.moves)
    left = superfluous(inventory, await moves.to_do(node_name), ended, node_name, own())
    for name in left.subscriptions:
        await drop_subscription(connection, name)
    for name in left.replication_slots:
        await drop_replication_slot(connection, name)
    for name in left.publications:
        await connection.execute(SQL("DROP PUBLICATION IF EXISTS {}").format(Identifier(name)))
    dropped = [*left.subscriptions, *left.replication_slots, *left.publications]
    for name in left.tables:
        table = parse_table(name)
        assert table is not None
        if table.move is not None:
            await drop_table(connection, name)
        elif not await _drop_partition(connection, table, left.oids[name], generation):
            continue
        dropped.append(name)
    if left.sealed:
        await connection.execute("DELETE FROM seals WHERE move = ANY(%s)", [left.sealed])
    if dropped:
        log.info("dropped what moves have left", names=dropped)
    return len(dropped)


async def clear_slot(connection: Connection, attempt: Attempt, generation: int) -> None:
    """Drops what earlier attempts have left of a slot that is about to be copied to this node.

    A subscription of theirs would go on writing old changes into the tables of the new one, which have its names.
    ``generation``: see ``clear``.
    """
    inventory = await take_inventory(connection)
    for name in inventory.subscriptions:
        other = parse_replication(name)
        if other is not None and other.slot == attempt.slot and _earlier(other, attempt):
            await drop_subscription(connection, name)
    for name in inventory.tables:
        table = parse_table(name)
        if table is None or table.slot != attempt.slot:
            continue
        if table.move is None:
            await _drop_partition(connection, table, inventory.oids[name], generation)
        elif table.attempt is not None and _earlier(Attempt(table.slot, table.move, table.attempt), attempt):
            await drop_table(connection, name)


def _earlier(one: Attempt, other: Attempt) -> bool:
    return (one.move, one.attempt) < (other.move, other.attempt)


async def _drop_partition(connection: Connection, table: TableName, oid: int, generation: int) -> bool:
    """Drops a partition under a name that no move ever has; False when its slot is this node's after all."""
    name = partition(table.parent, table.slot)
    doomed = f"{name}_m0_a{oid}"
    if not await rename_unowned(connection, table.slot, {table.parent: doomed}, generation, {name: oid}):
        return False
    await drop_table(connection, doomed)
    return True


async def drop_table(connection: Connection, name: str) -> None:
    """Drops a table of a slot, detached first where it is a partition."""
    for parent in PARENTS:
        if name.startswith(f"{parent}_"):
            await detach(connection, parent, name)
    await connection.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(name)))


async def drop_subscription(connection: Connection, name: str) -> None:
    """Drops a subscription without its replication slot, whose server may be away and drops it by itself."""
    async with connection.transaction():
        await connection.execute(SQL("ALTER SUBSCRIPTION {} DISABLE").format(Identifier(name)))
        await connection.execute(SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(Identifier(name)))
        await connection.execute(SQL("DROP SUBSCRIPTION {}").format(Identifier(name)))


async def drop_replication_slot(connection: Connection, name: str) -> None:
    """Drops a replication slot, ending whoever still reads from it.

    A subscription that has not been dropped yet comes back at once, so that takes a few tries; raises ObjectInUse when
    it is always there first.
    """
    for attempt in range(_TRIES):
        await connection.execute(
            "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active_pid IS NOT NULL",
            [name],
        )
        try:
            await connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [name],
            )
        except ObjectInUse:
            if attempt == _TRIES - 1:
                raise
        else:
            return


def _current(moves: dict[int, SlotMove], attempt: Attempt, states: frozenset[MoveState]) -> bool:
    move = moves.get(attempt.move)
    return move is not None and move.attempt == attempt.attempt and move.state in states
