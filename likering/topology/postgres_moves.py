"""The moves in the topology's Postgres. Each transition is a compare-and-set on the move's row (``move_rows``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from psycopg.rows import class_row, dict_row
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from likering.errors import MoveCommitted, PlanStale
from likering.postgres.session import Connection, Session, conninfo
from likering.ring.plan import Move as PlannedMove
from likering.topology import lost_nodes, node_rows, wait_reasons
from likering.topology.move_rows import (
    CHANNEL,
    COLUMNS,
    EVERYBODY,
    advance,
    assignments,
    cancel,
    change_owner,
    commit,
    note,
    read,
    slot_move,
)
from likering.topology.moves import (
    ENDED,
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
from likering.topology.postgres import RAISE_VERSION, SCHEMA, clear_errors, lock_cluster

T = TypeVar("T")

_LIMITS = SQL(", ").join(Identifier(column.name) for column in fields(MoveLimits))
_TELL = f"NOTIFY {CHANNEL}"


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
        ).format(columns=COLUMNS)

        async def work(connection: Connection) -> list[SlotMove]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, {"resize": resize, "ended": ended})
                return [slot_move(row) for row in await cursor.fetchall()]

        return await self._run(work)

    async def to_do(self, node: str) -> list[SlotMove]:
        """See MoveStore."""
        query = SQL(_TO_DO).format(columns=COLUMNS)

        async def work(connection: Connection) -> list[SlotMove]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, {"node": node, "first": _FIRST_PLANNED})
                return [slot_move(row) for row in await cursor.fetchall()]

        return await self._run(work)

    async def ended(self, moves: Collection[int]) -> set[int]:
        """See MoveStore."""

        async def work(connection: Connection) -> set[int]:
            cursor = await connection.execute(
                "SELECT number FROM unnest(%s::bigint[]) AS number"
                " WHERE NOT EXISTS (SELECT FROM moves WHERE move = number AND state <> ALL(%s))",
                [list(moves), list(ENDED)],
            )
            return {number for (number,) in await cursor.fetchall()}

        return await self._run(work)

    async def never_compared(self, moves: Collection[int]) -> set[int]:
        """See MoveStore."""

        async def work(connection: Connection) -> set[int]:
            cursor = await connection.execute(
                "SELECT move FROM moves WHERE move = ANY(%s) AND state = 'retired' AND NOT EXISTS ("
                "SELECT FROM move_events WHERE move_events.move = moves.move AND move_events.state = 'verified')",
                [list(moves)],
            )
            return {number for (number,) in await cursor.fetchall()}

        return await self._run(work)

    async def move(self, move: int) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await read(connection, move)

        return await self._run(work)

    async def begin(self, move: SlotMove, who: str) -> str:
        """See MoveStore."""

        async def work(connection: Connection) -> str:
            async with connection.transaction():
                # One at a time, or two targets would both find the source free.
                limits = await _read_limits(connection, lock=True)
                if limits.paused:
                    return wait_reasons.PAUSED
                cursor = await connection.execute(
                    "SELECT source, target FROM moves WHERE state = ANY(%s)", [list(UNDER_WAY)]
                )
                pairs = await cursor.fetchall()
                for name in (move.source, move.target):
                    busy = sum(name in pair for pair in pairs)
                    if busy >= limits.slots_at_once:
                        return wait_reasons.busy(name)
                await advance(
                    connection, move, MoveState.COPYING, who, {}, {"waits_for": "", "rows_copied": 0}
                )
            return ""

        return await self._run(work)

    async def advance(
        self, move: SlotMove, to: MoveState, who: str, detail: Mapping[str, Any] | None = None, **facts: Any
    ) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await advance(connection, move, to, who, detail or {}, facts)

        return await self._transition(work)

    async def commit(
        self, move: SlotMove, to: MoveState, who: str, detail: Mapping[str, Any], **facts: Any
    ) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            return await commit(connection, move, to, who, detail, facts)

        return await self._transition(work)

    async def revert(self, move: int, who: str) -> SlotMove:
        """See MoveStore."""

        async def work(connection: Connection) -> SlotMove:
            async with connection.transaction():
                await lock_cluster(connection)
                held = await read(connection, move)
                if held.state is not MoveState.COMMITTED:
                    raise MoveChanged(
                        f"Move {move} is {held.state}: only one that is committed, and whose target has not begun to"
                        " activate, can be reverted"
                    )
                reverted = await advance(connection, held, MoveState.REVERTED, who, {}, {"waits_for": ""})
                await change_owner(connection, held, held.target, held.epoch + 1, held.source, held.epoch + 2)
                return reverted

        return await self._run(work)

    async def cancel(self, moves: Collection[int], who: str) -> list[SlotMove]:
        """See MoveStore."""
        now = await self._cancel_all(sorted(moves), who)
        if len(now) == 1 and now[0].state is not MoveState.CANCELLED:
            raise MoveCommitted(f"The {now[0]} is {now[0].state} and can no longer be cancelled")
        return now

    async def _cancel_all(self, numbers: Sequence[int], who: str) -> list[SlotMove]:
        now: list[SlotMove] = []
        for start in range(0, len(numbers), _CANCELLED_AT_ONCE):
            now += await self._run(partial(_cancel, numbers[start : start + _CANCELLED_AT_ONCE], who))
        return now

    async def give_up(self, node: str, who: str, *, remove: bool = False) -> list[SlotMove]:
        """See MoveStore."""

        async def check(connection: Connection) -> None:
            if remove:
                await lost_nodes.check_removable(connection, node)
            else:
                await node_rows.check_known(connection, node)

        async def work(connection: Connection) -> list[SlotMove]:
            async with connection.transaction():
                await lock_cluster(connection)
                given_up = await lost_nodes.give_up(connection, node, who)
                if remove:
                    await lost_nodes.remove(connection, node)
                return given_up

        await self._run(check)
        # As many as there are piece by piece; the transaction finds the few that have come since.
        numbers = [
            move.move
            for move in await self.moves()
            if node in (move.source, move.target) and move.state in UNCOMMITTED
        ]
        first = {move.move: move for move in await self._cancel_all(numbers, who)}
        return list((first | {move.move: move for move in await self._run(work)}).values())

    async def report(self, move: SlotMove, **facts: Any) -> None:
        """See MoveStore."""

        async def work(connection: Connection) -> None:
            await note(connection, move, facts)

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
                        SQL("UPDATE move_limits SET {}").format(assignments(changes)), dict(changes)
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
                yield EVERYBODY
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

    async def _transition(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with clear_errors(self._timeout):
            return await self._transitions.run(work)


async def _cancel(numbers: Sequence[int], who: str, connection: Connection) -> list[SlotMove]:
    async with connection.transaction():
        return await cancel(connection, numbers, who)


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


_CANCELLED_AT_ONCE = 1000
"""Moves of one call: the largest resize has sixteen thousand, and each call has its time."""
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
