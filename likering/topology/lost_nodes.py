"""A node that is gone for good with its database: what becomes of its moves. Whoever calls is in a transaction."""

from __future__ import annotations

from psycopg.rows import dict_row
from psycopg.sql import SQL

from likering.errors import NodeOwnsSlots
from likering.postgres.session import Connection
from likering.topology import node_rows
from likering.topology.move_rows import COLUMNS, advance, cancel, change_owner, slot_move
from likering.topology.moves import UNCOMMITTED, MoveState, SlotMove
from likering.topology.postgres import RAISE_VERSION

_ITS_MOVES = SQL(
    "SELECT {columns} FROM moves WHERE %(node)s IN (source, target)"
    " AND state NOT IN ('retired', 'cancelled', 'reverted') ORDER BY move FOR UPDATE"
).format(columns=COLUMNS)
# Slots that it has not taken up, or has only just, go back to their sources: they do not count.
_TIES = """
SELECT (SELECT count(*) FROM slots WHERE owner = %(node)s AND NOT EXISTS (
            SELECT FROM moves WHERE moves.slot = slots.slot AND target = %(node)s
            AND moves.state IN ('committed', 'activating'))),
       (SELECT array_agg(move || ' of slot ' || slot || ', which is ' || state || ' on node ' || target ORDER BY move)
        FROM moves WHERE source = %(node)s AND state IN ('committed', 'activating'))
"""


def end_of(move: SlotMove, lost: str) -> MoveState:
    """What becomes of a move when one of its nodes is lost; its own state: it goes on without that node, or has ended.

    Before a target serves, its source has all there is of the slot: what a lost target was to take is given back. From
    then on the target has more, and all that is left to do is to compare the source's copy and to drop it.
    """
    match move.state:
        case state if state in UNCOMMITTED:
            return MoveState.CANCELLED
        case MoveState.COMMITTED | MoveState.ACTIVATING:
            return MoveState.REVERTED if move.target == lost else move.state
        case MoveState.ACTIVE | MoveState.MOVED:
            return MoveState.RETIRED
        case MoveState.VERIFIED:
            # The other way round the source drops its copy by itself, and nobody waits for it.
            return MoveState.RETIRED if move.source == lost else move.state
        case _:
            return move.state


async def give_up(connection: Connection, node: str, who: str) -> list[SlotMove]:
    """Ends the moves that need the node; returns all that it takes part in, as they are now.

    Whoever calls holds the lock of the cluster's row: no owner changes meanwhile, and no move begins.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_ITS_MOVES, {"node": node})
        moves = [slot_move(row) for row in await cursor.fetchall()]
    ends = {move.move: end_of(move, node) for move in moves}
    uncommitted = [number for number, end in ends.items() if end is MoveState.CANCELLED]
    cancelled = {move.move: move for move in await cancel(connection, uncommitted, who)}
    return [
        cancelled.get(move.move) or await _ended(connection, move, ends[move.move], node, who)
        for move in moves
    ]


async def remove(connection: Connection, node: str) -> None:
    """Forgets a node whose moves have been given up. Raises NodeOwnsSlots."""
    await check_removable(connection, node)
    await connection.execute("DELETE FROM nodes WHERE name = %s", [node])
    await connection.execute(RAISE_VERSION)


async def check_removable(connection: Connection, node: str) -> None:
    """Raises NodeUnknown, and NodeOwnsSlots while likes of slots can be nowhere but in the node's database."""
    await node_rows.check_known(connection, node)
    cursor = await connection.execute(_TIES, {"node": node})
    slots, handed_over = await cursor.fetchone() or (0, None)
    if slots:
        raise NodeOwnsSlots(
            f"Node {node} owns {slots} of the slots, and nobody else has their likes: restore its database, from a"
            " standby or a backup, and start it. What ends its moves meanwhile is: likering ring cancel --lost"
            f" {node}"
        )
    if handed_over:
        raise NodeOwnsSlots(
            f"Node {node} is the source of move {handed_over[0]}: wait until that node serves the slot"
        )


async def _ended(connection: Connection, move: SlotMove, to: MoveState, lost: str, who: str) -> SlotMove:
    if to is move.state:
        return move
    detail = {"lost": lost}
    if to is MoveState.REVERTED:
        reverted = await advance(connection, move, to, who, detail, {"waits_for": ""})
        await change_owner(connection, move, move.target, move.epoch + 1, move.source, move.epoch + 2)
        return reverted
    facts = {"waits_for": ""}
    if move.state is not MoveState.VERIFIED:
        facts["last_error"] = f"its copies were never compared, because node {lost} is lost"
    return await advance(connection, move, to, who, detail, facts)
