"""The row of a move: each transition a compare-and-set on it, in one statement with its event and whom to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from psycopg.errors import DivisionByZero
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal, Placeholder
from psycopg.types.json import Jsonb

from likering.postgres.session import Connection
from likering.topology.moves import NEXT, UNCOMMITTED, MoveChanged, MoveState, SlotMove
from likering.topology.postgres import CHANNEL as TOPOLOGY_CHANNEL
from likering.topology.postgres import RAISE_VERSION

CHANNEL = "likering_moves"
EVERYBODY = ""
"""What is told on the channel to all nodes; else the name of one."""

_AGES = {
    "state_age": SQL("extract(epoch FROM clock_timestamp() - state_since)::float8 AS state_age"),
    "word_age": SQL("extract(epoch FROM clock_timestamp() - word_at)::float8 AS word_age"),
}
COLUMNS = SQL(", ").join(_AGES.get(column.name, Identifier(column.name)) for column in fields(SlotMove))
# What PostgresTopologyStore.changes reads: the version that the commit made, and all that is new in it.
_TELL_TOPOLOGY = SQL(
    "pg_notify({channel}, concat_ws(' ', coalesce(topology_version, 0), slot, target, epoch + 1))::text"
).format(channel=Literal(TOPOLOGY_CHANNEL))
_OWNED_BY_TARGET = frozenset((MoveState.COMMITTED, MoveState.ACTIVATING))
"""What a commit leads to."""
_FACTS = frozenset(("rows_total", "rows_copied", "lag_us", "pause_us", "last_rev", "waits_for", "last_error"))
_NOTED = SQL(
    "INSERT INTO move_events (move, attempt, state, who, detail)"
    " SELECT move, attempt, state, %(_who)s, %(_detail)s FROM changed"
)
_ADVANCE = SQL(
    "WITH changed AS (UPDATE moves SET {changes} WHERE {same} RETURNING *), noted AS ({noted})"
    " SELECT {columns}, {told} FROM changed"
)
# One statement, for the slot's writes wait for it. It locks the cluster's row first, as everybody does who changes an
# owner. That the move is current and the slot is another's must not be: then the division fails, and so does all of it.
_COMMIT = SQL(
    "WITH locked AS MATERIALIZED (SELECT version + 1 AS next_version FROM cluster FOR UPDATE),"
    " changed AS (UPDATE moves SET {changes}, topology_version = next_version FROM locked WHERE {same}"
    " RETURNING moves.*),"
    " owned AS (UPDATE slots SET owner = target, epoch = changed.epoch + 1 FROM changed"
    " WHERE slots.slot = changed.slot AND slots.owner = changed.source AND slots.epoch = changed.epoch RETURNING 1),"
    " raised AS (UPDATE cluster SET version = version + 1 FROM owned), noted AS ({noted})"
    " SELECT {columns}, 1 / (SELECT count(*) FROM owned) FROM changed"
)
_LOCK = SQL("SELECT {} FROM moves WHERE move = ANY(%s) ORDER BY move FOR UPDATE").format(COLUMNS)
# As many as there are: one after the other, thousands would take longer than a call may.
_CANCEL = SQL(
    "WITH changed AS (UPDATE moves SET {changes} WHERE move = ANY(%(_moves)s) RETURNING *), noted AS ({noted})"
    " SELECT {columns} FROM changed"
)
_SAME = SQL("move = %(_move)s AND state = %(_state)s AND attempt = %(_attempt)s")


def _same(move: SlotMove) -> dict[str, Any]:
    return {"_move": move.move, "_state": move.state, "_attempt": move.attempt}


def _to_tell(move: SlotMove, to: MoveState) -> tuple[str, ...]:
    """Who has to do something about a transition: names of nodes, empty for everybody.

    Told of everything, all nodes would read the moves while the slot's writes wait.
    """
    match to:
        case MoveState.PLANNED | MoveState.MOVED:
            return (move.target,)
        case MoveState.ACTIVE:
            return (move.source,)
        case MoveState.ABORTED | MoveState.CANCELLED | MoveState.REVERTED:
            return (EVERYBODY,)
        case _:
            return ()


def slot_move(row: Mapping[str, Any]) -> SlotMove:
    """The move of a row of COLUMNS."""
    return SlotMove(**{**row, "state": MoveState(row["state"])})


def assignments(values: Mapping[str, Any]) -> Composed:
    """What follows SET in an UPDATE: each column = the parameter of its name."""
    return SQL(", ").join(SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in values)


def _row_changes(values: Mapping[str, Any]) -> Composed:
    """The assignments of an UPDATE of a move's row: the values, and what follows from them."""
    changes: list[Composable] = [SQL("word_at = clock_timestamp()")]
    if values:
        changes.append(assignments(values))
    if "state" in values:
        changes.append(SQL("state_since = clock_timestamp()"))
    if "waits_for" in values:
        # Since when: as long as it is the same reason.
        changes.append(
            SQL(
                "waits_since = CASE WHEN %(waits_for)s = '' THEN NULL WHEN waits_for = %(waits_for)s THEN waits_since"
                " ELSE clock_timestamp() END"
            )
        )
    return SQL(", ").join(changes)


async def note(connection: Connection, move: SlotMove, facts: Mapping[str, Any]) -> None:
    """Notes facts (columns) of a move that is as it is given, and that its target lives; of any other, nothing."""
    assert facts.keys() <= _FACTS, facts
    await connection.execute(
        SQL("UPDATE moves SET {} WHERE {}").format(_row_changes(facts), _SAME), {**facts, **_same(move)}
    )


async def advance(
    connection: Connection,
    move: SlotMove,
    to: MoveState,
    who: str,
    detail: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> SlotMove:
    """See MoveStore.advance."""
    if to not in NEXT[move.state]:
        raise ValueError(f"No way leads from {move.state} to {to}")
    told: list[Composable] = [
        SQL("pg_notify({}, {})::text").format(Literal(CHANNEL), Literal(name)) for name in _to_tell(move, to)
    ]
    if to is MoveState.ACTIVE:
        told.append(_TELL_TOPOLOGY)
    values = {"state": to, "attempt": move.attempt + (to is MoveState.PLANNED), **facts}
    return await _compare_and_set(
        connection, _ADVANCE, move, values, who, detail, told=SQL(", ").join(told or [SQL("NULL")])
    )


async def cancel(connection: Connection, moves: Sequence[int], who: str) -> list[SlotMove]:
    """Cancels, in a transaction, those of the moves that are uncommitted, and tells all nodes.

    Returns all of them as they are now. Raises MoveChanged unless there are all of them.
    """
    values = {"state": MoveState.CANCELLED, "waits_for": ""}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LOCK, [list(moves)])
        now = {row["move"]: slot_move(row) for row in await cursor.fetchall()}
        if missing := set(moves) - now.keys():
            raise MoveChanged(f"There is no move {min(missing)}")
        uncommitted = [number for number, move in now.items() if move.state in UNCOMMITTED]
        await cursor.execute(
            _CANCEL.format(changes=_row_changes(values), noted=_NOTED, columns=COLUMNS),
            {**values, "_moves": uncommitted, "_who": who, "_detail": Jsonb({})},
        )
        now |= {row["move"]: slot_move(row) for row in await cursor.fetchall()}
    if uncommitted:
        await connection.execute(SQL("NOTIFY {}").format(Identifier(CHANNEL)))
    return list(now.values())


async def commit(
    connection: Connection,
    move: SlotMove,
    to: MoveState,
    who: str,
    detail: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> SlotMove:
    """See MoveStore.commit."""
    if move.state is not MoveState.FREEZING or to not in _OWNED_BY_TARGET:
        raise ValueError(f"No commit leads from {move.state} to {to}")
    try:
        return await _compare_and_set(connection, _COMMIT, move, {"state": to, **facts}, who, detail)
    except DivisionByZero as error:
        raise MoveChanged(
            f"Slot {move.slot} is not {move.source}'s at epoch {move.epoch} any more"
        ) from error


async def _compare_and_set(
    connection: Connection,
    statement: SQL,
    move: SlotMove,
    values: Mapping[str, Any],
    who: str,
    detail: Mapping[str, Any],
    **parts: Composable,
) -> SlotMove:
    """Runs a compare-and-set with its event: one statement, which is a transaction of its own or part of one."""
    assert values.keys() <= _FACTS | {"state", "attempt"}, values
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            statement.format(
                changes=_row_changes(values), same=_SAME, noted=_NOTED, columns=COLUMNS, **parts
            ),
            {**values, **_same(move), "_who": who, "_detail": Jsonb(dict(detail))},
        )
        row = await cursor.fetchone()
    if row is None:
        raise MoveChanged(f"The {move} is not {move.state} at attempt {move.attempt} any more")
    return slot_move({column.name: row[column.name] for column in fields(SlotMove)})


async def change_owner(
    connection: Connection, move: SlotMove, owner: str, epoch: int, new_owner: str, new_epoch: int
) -> None:
    """Gives the slot of a move to another owner. Raises MoveChanged when the owner or the epoch is another one."""
    cursor = await connection.execute(
        "UPDATE slots SET owner = %s, epoch = %s WHERE slot = %s AND owner = %s AND epoch = %s",
        [new_owner, new_epoch, move.slot, owner, epoch],
    )
    if cursor.rowcount == 0:
        raise MoveChanged(f"Slot {move.slot} is not {owner}'s at epoch {epoch} any more")
    await connection.execute(RAISE_VERSION)
