"""The moves in the topology's Postgres: each transition a compare-and-set on the move's row."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Any, TypeVar

from psycopg.errors import DivisionByZero
from psycopg.rows import class_row, dict_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal, Placeholder
from psycopg.types.json import Jsonb

from likering.errors import MoveCommitted, PlanStale
from likering.postgres.session import Connection, Session, conninfo
from likering.ring.plan import Move as PlannedMove
from likering.topology.moves import (
    NEXT,
    SETTLED,
    UNCOMMITTED,
    UNDER_WAY,
    MoveChanged,
    MoveEvent,
    MoveLimits,
    MoveState,
    Resize,
    SlotMove,
)
from likering.topology.postgres import CHANNEL as TOPOLOGY_CHANNEL
from likering.topology.postgres import (
    RAISE_VERSION,
    SCHEMA,
    clear_errors,
    lock_cluster,
)

CHANNEL = "likering_moves"

T = TypeVar("T")

_AGES = {
    "state_age": SQL("extract(epoch FROM clock_timestamp() - state_since)::float8 AS state_age"),
    "word_age": SQL("extract(epoch FROM clock_timestamp() - word_at)::float8 AS word_age"),
}
_COLUMNS = SQL(", ").join(_AGES.get(column.name, Identifier(column.name)) for column in fields(SlotMove))
_LIMITS = SQL(", ").join(Identifier(column.name) for column in fields(MoveLimits))
_TELL = f"NOTIFY {CHANNEL}"
# What PostgresTopologyStore.changes reads: the version that the commit made, and all that is new in it.
_TELL_TOPOLOGY = SQL(
    "pg_notify({channel}, concat_ws(' ', topology_version, slot, target, epoch + 1))::text"
).format(channel=Literal(TOPOLOGY_CHANNEL))
_EVERYBODY = ""


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
            return (_EVERYBODY,)
        case _:
            return ()


_FACTS = frozenset(("rows_total", "rows_copied", "lag_us", "pause_us", "last_rev", "waits_for", "last_error"))


class PostgresMoveStore:
    """A MoveStore. Connects on the first call and again after the connection broke."""

    def __init__(self, dsn: str, *, timeout: float = 3.0) -> None:
        """``timeout`` (seconds) is for each call. Raises ValueError when the DSN is not a connection string."""
        self._conninfo = conninfo(dsn, timeout=timeout, schema=SCHEMA, application_name="likering-moves")
        self._timeout = timeout
        self._session = Session(self._conninfo, timeout=timeout)
        # Transitions have a connection of their own: the pause of a slot must not wait for a list of all moves.
        self._transitions = Session(self._conninfo, timeout=timeout)
        self._listeners: set[Session] = set()

    def __repr__(self) -> str:
        return f"PostgresMoveStore({self._session!r})"

    async def apply(
        self,
        expected_version: int,
        moves: Sequence[PlannedMove],
        plan: Mapping[str, Any],
        who: str,
        *,
        weights: Mapping[str, int] | None = None,
    ) -> int:
        """See MoveStore."""

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                _, version = await lock_cluster(connection)
                if version != expected_version:
                    raise PlanStale(
                        f"The plan is for version {expected_version} of the topology, which is at {version} by now:"
                        " make another plan"
                    )
                await _check_settled(connection)
                cursor = await connection.execute(
                    "INSERT INTO resizes (plan) VALUES (%s) RETURNING resize", [Jsonb(dict(plan))]
                )
                (resize,) = await cursor.fetchone() or (0,)
                cursor = await connection.execute(
                    """
                    INSERT INTO moves (resize, slot, source, target, epoch)
                    SELECT %s, planned.slot, planned.source, planned.target, planned.epoch
                    FROM unnest(%s::integer[], %s::text[], %s::text[], %s::bigint[])
                         AS planned (slot, source, target, epoch)
                    JOIN slots ON slots.slot = planned.slot AND slots.owner = planned.source
                              AND slots.epoch = planned.epoch
                    JOIN nodes ON nodes.name = planned.target AND nodes.state = 'active'
                    """,
                    [
                        resize,
                        [move.slot for move in moves],
                        [move.source for move in moves],
                        [move.target for move in moves],
                        [move.epoch for move in moves],
                    ],
                )
                if cursor.rowcount != len(moves):
                    raise PlanStale(
                        "A slot has another owner, or a target is no active node: make another plan"
                    )
                if weights:
                    await connection.execute(
                        "UPDATE nodes SET weight = given.weight, updated_at = now()"
                        " FROM unnest(%s::text[], %s::integer[]) AS given (name, weight)"
                        " WHERE nodes.name = given.name",
                        [list(weights.keys()), list(weights.values())],
                    )
                    await connection.execute(RAISE_VERSION)
                await connection.execute(
                    "INSERT INTO move_events (move, attempt, state, who) SELECT move, 1, 'planned', %s FROM moves"
                    " WHERE resize = %s",
                    [who, resize],
                )
                await connection.execute(_TELL)
            return int(resize)

        return await self._run(work)

    async def moves(self, *, resize: int | None = None, ended: bool = False) -> list[SlotMove]:
        """See MoveStore."""
        query = SQL(
            "SELECT {columns} FROM moves WHERE (%(resize)s::bigint IS NULL OR resize = %(resize)s)"
            " AND (%(ended)s OR state NOT IN ('retired', 'cancelled', 'reverted')) ORDER BY move"
        ).format(columns=_COLUMNS)

        async def work(connection: Connection) -> list[SlotMove]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, {"resize": resize, "ended": ended})
                return [_slot_move(row) for row in await cursor.fetchall()]

        return await self._run(work)

    async def to_do(self, node: str) -> list[SlotMove]:
        """See MoveStore."""
        query = SQL(_TO_DO).format(columns=_COLUMNS)

        async def work(connection: Connection) -> list[SlotMove]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, {"node": node, "first": _FIRST_PLANNED})
                return [_slot_move(row) for row in await cursor.fetchall()]

        return await self._run(work)

    async def move(self, move: int) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await _read(connection, move)

        return await self._run(work)

    async def begin(self, move: SlotMove, who: str) -> str:
        """See MoveStore."""

        async def work(connection: Connection) -> str:
            async with connection.transaction():
                # One at a time, or two targets would both find the source free.
                limits = await _read_limits(connection, lock=True)
                if limits.paused:
                    return "moves are paused"
                cursor = await connection.execute(
                    "SELECT source, target FROM moves WHERE state = ANY(%s)", [list(UNDER_WAY)]
                )
                pairs = await cursor.fetchall()
                for name in (move.source, move.target):
                    busy = sum(name in pair for pair in pairs)
                    if busy >= limits.slots_at_once:
                        return f"node {name} takes part in as many moves as it may at once"
                await _advance(
                    connection, move, MoveState.COPYING, who, {}, {"waits_for": "", "rows_copied": 0}
                )
            return ""

        return await self._run(work)

    async def advance(
        self, move: SlotMove, to: MoveState, who: str, detail: Mapping[str, Any] | None = None, **facts: Any
    ) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await _advance(connection, move, to, who, detail or {}, facts)

        return await self._run(work)

    async def commit(self, move: SlotMove, who: str, detail: Mapping[str, Any], **facts: Any) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await _commit(connection, move, who, detail, facts)

        return await self._change(work)

    async def revert(self, move: int, who: str) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            async with connection.transaction():
                await lock_cluster(connection)
                held = await _read(connection, move)
                if held.state is not MoveState.COMMITTED:
                    raise MoveChanged(
                        f"Move {move} is {held.state}: only one that is committed, and whose target has not begun to"
                        " activate, can be reverted"
                    )
                reverted = await _advance(connection, held, MoveState.REVERTED, who, {}, {"waits_for": ""})
                await _change_owner(
                    connection, held, held.target, held.epoch + 1, held.source, held.epoch + 2
                )
                return reverted

        return await self._run(work)

    async def cancel(self, moves: Collection[int], who: str) -> list[SlotMove]:
        """See MoveStore."""

        async def work(connection: Connection) -> list[SlotMove]:
            result = []
            async with connection.transaction():
                for number in sorted(moves):
                    move = await _read(connection, number, lock=True)
                    if move.state in UNCOMMITTED:
                        move = await _advance(
                            connection, move, MoveState.CANCELLED, who, {}, {"waits_for": ""}
                        )
                    result.append(move)
            return result

        cancelled = await self._run(work)
        if len(cancelled) == 1 and cancelled[0].state is not MoveState.CANCELLED:
            raise MoveCommitted(f"The {cancelled[0]} is {cancelled[0].state} and can no longer be cancelled")
        return cancelled

    async def report(self, move: SlotMove, **facts: Any) -> None:
        """See MoveStore."""

        async def work(connection: Connection) -> None:
            await _note(connection, move, facts)

        await self._run(work)

    async def limits(self) -> MoveLimits:
        """See MoveStore."""
        return await self._run(_read_limits)

    async def set_limits(self, **changes: int | bool) -> MoveLimits:
        """See MoveStore."""
        known = {column.name for column in fields(MoveLimits)}
        if not changes.keys() <= known:
            raise ValueError(f"No limits: {', '.join(sorted(changes.keys() - known))}")

        async def work(connection: Connection) -> MoveLimits:
            async with connection.transaction():
                if changes:
                    await connection.execute(
                        SQL("UPDATE move_limits SET {}").format(_assignments(changes)), dict(changes)
                    )
                    await connection.execute(_TELL)
                return await _read_limits(connection)

        return await self._run(work)

    async def events(self, moves: Collection[int]) -> list[MoveEvent]:
        """See MoveStore."""

        async def work(connection: Connection) -> list[MoveEvent]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(
                    "SELECT move, at, attempt, state, who, detail FROM move_events WHERE move = ANY(%s)"
                    " ORDER BY move, at",
                    [list(moves)],
                )
                return [
                    MoveEvent(**{**row, "state": MoveState(row["state"])}) for row in await cursor.fetchall()
                ]

        return await self._run(work)

    async def resizes(self, limit: int, *, resize: int | None = None) -> list[Resize]:
        """See MoveStore."""

        async def work(connection: Connection) -> list[Resize]:
            async with connection.cursor(row_factory=class_row(Resize)) as cursor:
                await cursor.execute(
                    "SELECT resize, plan, created_at FROM resizes WHERE %s::bigint IS NULL OR resize = %s"
                    " ORDER BY resize DESC LIMIT %s",
                    [resize, resize, limit],
                )
                return await cursor.fetchall()

        return await self._run(work)

    async def changes(self) -> AsyncGenerator[str, None]:
        """See MoveStore. Holds a connection of its own until the generator is closed."""
        session = Session(self._conninfo, timeout=self._timeout)

        async def listen(connection: Connection) -> None:
            await connection.execute(f"LISTEN {CHANNEL}")

        self._listeners.add(session)
        try:
            with clear_errors(self._timeout):
                await session.run(listen)
                yield _EVERYBODY
                async with aclosing(session.notifications()) as payloads:
                    async for payload in payloads:
                        yield payload
        finally:
            self._listeners.discard(session)
            await session.close()

    async def close(self) -> None:
        """See MoveStore."""
        for session in (self._session, self._transitions, *self._listeners):
            await session.close()

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with clear_errors(self._timeout):
            return await self._session.run(work)

    async def _change(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with clear_errors(self._timeout):
            return await self._transitions.run(work)


def _slot_move(row: Mapping[str, Any]) -> SlotMove:
    return SlotMove(**{**row, "state": MoveState(row["state"])})


async def _read(connection: Connection, move: int, *, lock: bool = False) -> SlotMove:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            SQL("SELECT {} FROM moves WHERE move = %s" + (" FOR UPDATE" if lock else "")).format(_COLUMNS),
            [move],
        )
        row = await cursor.fetchone()
    if row is None:
        raise MoveChanged(f"There is no move {move}")
    return _slot_move(row)


async def _check_settled(connection: Connection) -> None:
    """A plan is made from who owns the slots, not from who will: with moves under way its balance would be wrong."""
    cursor = await connection.execute(
        "SELECT count(*), array_agg(DISTINCT resize ORDER BY resize) FROM moves WHERE state <> ALL(%s)",
        [list(SETTLED)],
    )
    count, resizes = await cursor.fetchone() or (0, None)
    if count:
        raise PlanStale(
            f"{count} slots are moving already (resize {', '.join(map(str, resizes))}): wait until they have, or cancel"
            " those moves, and make another plan"
        )


async def _read_limits(connection: Connection, *, lock: bool = False) -> MoveLimits:
    async with connection.cursor(row_factory=class_row(MoveLimits)) as cursor:
        await cursor.execute(
            SQL("SELECT {} FROM move_limits" + (" FOR UPDATE" if lock else "")).format(_LIMITS)
        )
        limits = await cursor.fetchone()
    assert limits is not None
    return limits


def _assignments(values: Mapping[str, Any]) -> Composed:
    return SQL(", ").join(SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in values)


def _changes(values: Mapping[str, Any]) -> Composed:
    """The assignments of an UPDATE of a move's row: the values, and what follows from them."""
    assignments: list[Composable] = [SQL("word_at = clock_timestamp()")]
    if values:
        assignments.append(_assignments(values))
    if "state" in values:
        assignments.append(SQL("state_since = clock_timestamp()"))
    if "waits_for" in values:
        # Since when: as long as it is the same reason.
        assignments.append(
            SQL(
                "waits_since = CASE WHEN %(waits_for)s = '' THEN NULL WHEN waits_for = %(waits_for)s THEN waits_since"
                " ELSE clock_timestamp() END"
            )
        )
    return SQL(", ").join(assignments)


_FIRST_PLANNED = 4
"""So many planned moves from one source to one target are looked at: a source that is away must not hide the others."""
_TO_DO = """
SELECT {columns} FROM moves
WHERE state NOT IN ('planned', 'verified', 'retired', 'cancelled', 'reverted')
   OR move IN (
       SELECT move FROM (
           SELECT move, row_number() OVER (PARTITION BY source ORDER BY move) AS place
           FROM moves WHERE state = 'planned' AND target = %(node)s) AS planned
       WHERE place <= %(first)s)
   OR state = 'verified' AND source = %(node)s
      AND state_since <= clock_timestamp() - (SELECT make_interval(secs => grace_seconds) FROM move_limits)
ORDER BY move
"""
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
_SAME = SQL("move = %(_move)s AND state = %(_state)s AND attempt = %(_attempt)s")


def _same(move: SlotMove) -> dict[str, Any]:
    return {"_move": move.move, "_state": move.state, "_attempt": move.attempt}


async def _note(connection: Connection, move: SlotMove, facts: Mapping[str, Any]) -> None:
    assert facts.keys() <= _FACTS, facts
    await connection.execute(
        SQL("UPDATE moves SET {} WHERE {}").format(_changes(facts), _SAME), {**facts, **_same(move)}
    )


async def _advance(
    connection: Connection,
    move: SlotMove,
    to: MoveState,
    who: str,
    detail: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> SlotMove:
    if to not in NEXT[move.state]:
        raise ValueError(f"No way leads from {move.state} to {to}")
    told: list[Composable] = [
        SQL("pg_notify({}, {})::text").format(Literal(CHANNEL), Literal(name)) for name in _to_tell(move, to)
    ]
    if to is MoveState.ACTIVE:
        told.append(_TELL_TOPOLOGY)
    values = {"state": to, "attempt": move.attempt + (to is MoveState.PLANNED), **facts}
    return await _change(
        connection, _ADVANCE, move, values, who, detail, told=SQL(", ").join(told or [SQL("NULL")])
    )


async def _commit(
    connection: Connection, move: SlotMove, who: str, detail: Mapping[str, Any], facts: Mapping[str, Any]
) -> SlotMove:
    if MoveState.COMMITTED not in NEXT[move.state]:
        raise ValueError(f"No way leads from {move.state} to {MoveState.COMMITTED}")
    try:
        return await _change(connection, _COMMIT, move, {"state": MoveState.COMMITTED, **facts}, who, detail)
    except DivisionByZero as error:
        raise MoveChanged(
            f"Slot {move.slot} is not {move.source}'s at epoch {move.epoch} any more"
        ) from error


async def _change(
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
            statement.format(changes=_changes(values), same=_SAME, noted=_NOTED, columns=_COLUMNS, **parts),
            {**values, **_same(move), "_who": who, "_detail": Jsonb(dict(detail))},
        )
        row = await cursor.fetchone()
    if row is None:
        raise MoveChanged(f"The {move} is not {move.state} at attempt {move.attempt} any more")
    return _slot_move({column.name: row[column.name] for column in fields(SlotMove)})


async def _change_owner(
    connection: Connection, move: SlotMove, owner: str, epoch: int, new_owner: str, new_epoch: int
) -> None:
    cursor = await connection.execute(
        "UPDATE slots SET owner = %s, epoch = %s WHERE slot = %s AND owner = %s AND epoch = %s",
        [new_owner, new_epoch, move.slot, owner, epoch],
    )
    if cursor.rowcount == 0:
        raise MoveChanged(f"Slot {move.slot} is not {owner}'s at epoch {epoch} any more")
    await connection.execute(RAISE_VERSION)
