"""Looks in the databases for everything that was acknowledged: every write of every side, after the last round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import redis

from likering.bench.results import Written
from shard_node.packed_ids import pack


@dataclass(frozen=True, slots=True)
class Found:
    """What the databases hold of the posts whose ids begin with a prefix."""

    edges: int  # liked edges
    counts: int  # sum of the posts' counts
    versions: int | None  # sum of the posts' versions, where there are versions
    wrong_posts: int = (
        0  # posts whose count is not the number of their liked edges, or whose version has holes
    )

    def problem(self, written: Written) -> str | None:
        """A sentence when this cannot come from what was acknowledged, else None. Sides write likes only."""
        low, high = written.likes, written.likes + written.uncertain
        if not low <= self.edges <= high:
            between = f"{low}" if low == high else f"{low} to {high}"
            return f"{self.edges} liked edges, but {between} likes were acknowledged"
        if self.counts != self.edges:
            return f"the counts add up to {self.counts}, but there are {self.edges} liked edges"
        if self.versions is not None and self.versions != self.edges:
            return f"the versions add up to {self.versions}, but there were {self.edges} changes"
        if self.wrong_posts:
            return f"{self.wrong_posts} posts have a wrong count or version"
        return None


_NODE = """
WITH edge AS (
    SELECT slot, post_no, count(*) AS liked FROM likering.edges WHERE liked GROUP BY slot, post_no
)
SELECT coalesce(sum(liked), 0), coalesce(sum(like_count), 0), coalesce(sum(version), 0),
       count(*) FILTER (WHERE liked IS DISTINCT FROM like_count OR version IS DISTINCT FROM like_count)
FROM edge FULL JOIN likering.posts USING (slot, post_no)
WHERE post_id IS NULL OR post_id >= %(first_packed)s AND post_id < %(after_packed)s
"""

_COUNTERS = """
WITH edge AS (
    SELECT post_id, count(*) AS liked FROM likes WHERE post_id >= %(first)s AND post_id < %(after)s GROUP BY post_id
), post AS (
    SELECT post_id, like_count FROM counts WHERE post_id >= %(first)s AND post_id < %(after)s
)
SELECT coalesce(sum(liked), 0), coalesce(sum(like_count), 0), NULL::bigint,
       count(*) FILTER (WHERE liked IS DISTINCT FROM like_count)
FROM edge FULL JOIN post USING (post_id)
"""

_EDGES_ONLY = """
SELECT count(*), count(*), NULL::bigint, 0 FROM likes WHERE post_id >= %(first)s AND post_id < %(after)s
"""


def _look(dsns: Sequence[str], query: str, prefix: str) -> Found:
    edges = counts = wrong = 0
    versions: int | None = None
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            bounds = {"first": f"{prefix}p", "after": f"{prefix}q"}
            packed = {f"{name}_packed": pack(bound) for name, bound in bounds.items()}
            row = connection.execute(query.encode(), bounds | packed).fetchone()
        assert row is not None
        edges, counts, wrong = edges + int(row[0]), counts + int(row[1]), wrong + int(row[3])
        if row[2] is not None:
            versions = (versions or 0) + int(row[2])
    return Found(edges, counts, versions, wrong)


def in_nodes(dsns: Sequence[str], prefix: str) -> Found:
    """In the databases of shard nodes (or of direct writers, which have the same schema)."""
    return _look(dsns, _NODE, prefix)


def in_counters(dsn: str, prefix: str) -> Found:
    """In the database of a peer with counter rows."""
    return _look([dsn], _COUNTERS, prefix)


def in_edges_only(dsn: str, prefix: str) -> Found:
    """In the database of the peer without counters."""
    return _look([dsn], _EDGES_ONLY, prefix)


def in_redis(url: str, prefix: str) -> Found:
    """In the sets of the Redis peer."""
    edges = 0
    with redis.Redis.from_url(url) as client:
        keys = list(client.scan_iter(f"likes:{prefix}p*", count=5000))
        for start in range(0, len(keys), 5000):
            with client.pipeline(transaction=False) as pipeline:
                for key in keys[start : start + 5000]:
                    pipeline.scard(key)
                edges += sum(pipeline.execute())
    return Found(edges, edges, None)
