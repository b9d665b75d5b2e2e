"""Which node's database holds which slot, what the topology says of it, and what moves have left behind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from tests.parts.stored import POSTS

_REPLICATION = """
SELECT ARRAY(SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE 'likering\\_s%')
    || ARRAY(SELECT 'subscription ' || subname FROM pg_subscription WHERE subname LIKE 'likering\\_s%')
    || ARRAY(SELECT 'replication slot ' || slot_name FROM pg_replication_slots WHERE slot_name LIKE 'likering\\_s%')
"""
_TABLES = """
SELECT relname::text, EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'likering'::regnamespace AND relname ~ '^(edges|posts|user_likes)_s[0-9]'
"""
_WRONG_COUNTS = f"""
SELECT post_id, coalesce(like_count, 0), coalesce(likes, 0) FROM {POSTS}
FULL JOIN (SELECT post_no, slot, count(*) AS likes FROM edges WHERE liked GROUP BY post_no, slot) AS edge
    USING (post_no, slot)
WHERE coalesce(like_count, 0) <> coalesce(likes, 0)
"""


@dataclass(slots=True)
class Held:
    """What one node's database says."""

    slots: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Slot → (epoch, state)."""
    filled: set[int] = field(default_factory=set)
    """Slots that have rows where the node's reads and writes go."""
    wrong_counts: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Placement:
    """Who has what, at one moment when nothing moves."""

    owners: list[tuple[str | None, int]]
    """By slot: owner and epoch, by the topology."""
    held: dict[str, Held]
    """By node."""


def misplaced(placement: Placement) -> list[str]:
    """Slots that have not exactly the owner that the topology says, rows that lie elsewhere, and wrong counts."""
    found: list[str] = []
    for slot, (owner, epoch) in enumerate(placement.owners):
        owning = {
            name: held.slots[slot][0]
            for name, held in placement.held.items()
            if slot in held.slots and held.slots[slot][1] == "owner"
        }
        if owner is None or owning != {owner: epoch}:
            found.append(f"slot {slot} is {owner}'s at epoch {epoch} by the topology, but of nodes {owning}")
        for name, held in placement.held.items():
            if slot in held.slots and held.slots[slot][1] == "frozen":
                found.append(f"slot {slot} is frozen on node {name}")
            if slot in held.filled and name != owner:
                found.append(f"slot {slot} has rows on node {name}, but is {owner}'s")
    for name, held in placement.held.items():
        found += [f"node {name}: {wrong}" for wrong in held.wrong_counts]
    return found


def left_behind(placement: Placement) -> list[str]:
    """What moves have left in the nodes' databases."""
    found = [f"node {name}: {what}" for name, held in placement.held.items() for what in held.leftovers]
    for name, held in placement.held.items():
        found += [
            f"node {name}: slot {slot} is {state} there"
            for slot, (_, state) in held.slots.items()
            if state != "owner"
        ]
    return found


async def placement_in(topology_dsn: str, nodes: Mapping[str, str]) -> Placement:
    """Asks the databases. ``nodes``: name → DSN."""
    async with await psycopg.AsyncConnection.connect(
        topology_dsn, options="-csearch_path=likering"
    ) as connection:
        cursor = await connection.execute("SELECT owner, epoch FROM slots ORDER BY slot")
        owners = [(owner, epoch) for owner, epoch in await cursor.fetchall()]
    return Placement(owners, {name: await _held(dsn) for name, dsn in nodes.items()})


async def _held(dsn: str) -> Held:
    held = Held()
    async with await psycopg.AsyncConnection.connect(dsn, options="-csearch_path=likering") as connection:
        # A slot whose copy has been dropped keeps its row, without a move: that much stays of it.
        cursor = await connection.execute(
            "SELECT slot, epoch, state FROM slots WHERE state <> 'moved' OR move IS NOT NULL"
        )
        held.slots = {slot: (epoch, state) for slot, epoch, state in await cursor.fetchall()}
        cursor = await connection.execute(
            "SELECT slot FROM edges UNION SELECT slot FROM posts UNION SELECT slot FROM user_likes"
        )
        held.filled = {slot for (slot,) in await cursor.fetchall()}
        cursor = await connection.execute(_WRONG_COUNTS)
        held.wrong_counts = [
            f"{post_id} has count {count}, but {likes} liked edges"
            for post_id, count, likes in await cursor.fetchall()
        ]
        cursor = await connection.execute(_REPLICATION)
        held.leftovers = list((await cursor.fetchone() or ([],))[0])
        cursor = await connection.execute(_TABLES)
        held.leftovers += _superfluous(await cursor.fetchall(), held)
    return held


def _superfluous(tables: Sequence[tuple[str, bool]], held: Held) -> list[str]:
    """Tables that are not the attached partitions of a slot that the node holds."""
    found = []
    for name, attached in tables:
        match = re.fullmatch(r"(?:edges|posts|user_likes)_s(\d+)", name)
        if match is None or not attached or int(match[1]) not in held.slots:
            found.append(f"table {name}")
    return found
