"""Compares what the target has with the copy that the source keeps, off the critical path.

The source's copy stands still, the target's rows go on changing. Rows are compared by sums of their hashes: all of the
source's, less those whose keys have changed on the target since, must be the target's that have not changed since.
Sums can be subtracted, so no snapshot must be held while it lasts.

A purge leaves no rows that say what has changed. So posts that the target has been purging since, or whose edges it has
erased with their users, are left out, on both sides; that their counts are right is looked at like all others'. What
the slot's users like is compared in ``user_verification``.

A like that is repeated with a newer intent leaves its edge's revision alone. So intents are no part of the hashes; of
the edges that have not changed since, they can only have grown.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from likering.topology.move_names import kept, partition
from shard_node.handoff.user_verification import user_likes_problem
from shard_node.post_numbers import HIGHEST_NUMBER
from shard_node.store import Connection

_PIECE = 10_000
"""Keys of one question to the source."""
_HASH = SQL(
    "hashtextextended(concat_ws(',', rev, coalesce(first_rev, -1), coalesce(liked_at, -1), slot, liked,"
    " post_no, user_id), 0)"
)
_INTENT = SQL("coalesce(intent, liked_at, rev)")


@dataclass(frozen=True, slots=True)
class Digest:
    """Number of rows, the sum of their hashes, and that of their intents."""

    rows: int
    total: int
    intents: int

    def less(self, other: Digest) -> Digest:
        """Without the other's rows."""
        return Digest(self.rows - other.rows, self.total - other.total, self.intents - other.intents)

    def has_become(self, later: Digest) -> bool:
        """Whether these rows can be the same as later ones."""
        return (self.rows, self.total) == (later.rows, later.total) and self.intents <= later.intents


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found. ``problem`` is empty when both sides agree."""

    rows: int
    changed_since: int
    problem: str


async def verify(source: Connection, target: Connection, slot: int, move: int, last_rev: int) -> Verdict:
    """Compares the slot's edges on both nodes, and the target's counts with its edges.

    ``last_rev``: the source's last revision of the slot; what is above has changed since.
    """
    here = Identifier(partition("edges", slot))
    there = Identifier(kept("edges", slot, move))
    # One statement, so one moment: what has changed until then, and the sum of all the rest.
    cursor = await target.execute(
        SQL(
            "WITH purged AS MATERIALIZED (SELECT post_no FROM {posts} WHERE post_no IS NOT NULL"
            " AND (purge_began IS NOT NULL OR purged_rev > %(rev)s OR erased_rev > %(rev)s))"
            " SELECT count(*) FILTER (WHERE rev <= %(rev)s),"
            " coalesce(sum({hash}::numeric) FILTER (WHERE rev <= %(rev)s), 0),"
            " coalesce(sum({intent}) FILTER (WHERE rev <= %(rev)s), 0),"
            " coalesce(array_agg(post_no) FILTER (WHERE rev > %(rev)s), '{{}}'),"
            " coalesce(array_agg(user_id) FILTER (WHERE rev > %(rev)s), '{{}}'),"
            " (SELECT coalesce(array_agg(post_no), '{{}}') FROM purged)"
            " FROM {table} WHERE post_no NOT IN (SELECT post_no FROM purged)"
        ).format(hash=_HASH, intent=_INTENT, table=here, posts=Identifier(partition("posts", slot))),
        {"rev": last_rev},
    )
    row = await cursor.fetchone()
    assert row is not None
    kept_here = Digest(int(row[0]), int(row[1]), int(row[2]))
    changed = list(zip(row[3], row[4], strict=True))
    expected = await _digest(source, there, purged=row[5])
    for start in range(0, len(changed), _PIECE):
        piece = changed[start : start + _PIECE]
        expected = expected.less(await _digest_of(source, there, piece))
    if not expected.has_become(kept_here):
        return Verdict(
            kept_here.rows,
            len(changed),
            f"the source has {expected.rows} unchanged edges with digest {expected.total} and intents"
            f" {expected.intents}, the target {kept_here.rows} with digest {kept_here.total} and intents"
            f" {kept_here.intents}",
        )
    numbers = await _numbers(source, kept("posts", slot, move))
    if numbers != await _numbers(target, partition("posts", slot), highest=numbers[0]):
        return Verdict(
            kept_here.rows, len(changed), "the posts of the target do not have the numbers of the source's"
        )
    wrong = await _wrong_counts(target, slot)
    problem = f"{wrong} posts of the target have a count that is not their number of likes" if wrong else ""
    if not problem:
        problem = await user_likes_problem(source, target, slot, move, last_rev)
    return Verdict(kept_here.rows, len(changed), problem)


async def _digest(connection: Connection, table: Composable, purged: list[int]) -> Digest:
    cursor = await connection.execute(
        SQL(
            "SELECT count(*), coalesce(sum({hash}::numeric), 0), coalesce(sum({intent}), 0) FROM {table}"
            " WHERE NOT post_no = ANY(%s::integer[])"
        ).format(hash=_HASH, intent=_INTENT, table=table),
        [purged],
    )
    row = await cursor.fetchone()
    assert row is not None
    return Digest(*map(int, row))


async def _digest_of(connection: Connection, table: Composable, keys: list[tuple[int, bytes]]) -> Digest:
    cursor = await connection.execute(
        SQL(
            "SELECT count(*), coalesce(sum({hash}::numeric), 0), coalesce(sum({intent}), 0) FROM {table}"
            " JOIN unnest(%s::integer[], %s::bytea[]) AS changed (post_no, user_id) USING (post_no, user_id)"
        ).format(hash=_HASH, intent=_INTENT, table=table),
        [[post_no for post_no, _ in keys], [user_id for _, user_id in keys]],
    )
    row = await cursor.fetchone()
    assert row is not None
    return Digest(*map(int, row))


async def _numbers(connection: Connection, table: str, highest: int = HIGHEST_NUMBER) -> tuple[int, int, int]:
    """Of posts with numbers up to ``highest``: the highest, how many, and the sum of the hashes of numbers and ids."""
    cursor = await connection.execute(
        SQL(
            "SELECT coalesce(max(post_no), 0), count(*),"
            " coalesce(sum(hashtextextended(concat_ws(',', post_no, post_id), 0)::numeric), 0) FROM {}"
            " WHERE post_no <= %s"
        ).format(Identifier(table)),
        [highest],
    )
    row = await cursor.fetchone()
    assert row is not None
    highest, posts, total = row
    return highest, posts, int(total)


async def _wrong_counts(connection: Connection, slot: int) -> int:
    """Posts whose count is not their number of liked edges, in one moment."""
    cursor = await connection.execute(
        SQL(
            "SELECT count(*) FROM {posts} AS post FULL JOIN"
            " (SELECT post_no, count(*) AS likes FROM {edges} WHERE liked GROUP BY post_no) AS edge USING (post_no)"
            " WHERE coalesce(post.like_count, 0) <> coalesce(edge.likes, 0)"
        ).format(posts=Identifier(partition("posts", slot)), edges=Identifier(partition("edges", slot)))
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
