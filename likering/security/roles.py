"""Which roles may call which RPC: one table of all there are. What is not in it cannot be served.

tests/unit/test_security_roles.py holds it against the descriptors, and docs/security.md against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Role(StrEnum):
    """What a credential is good for. None includes another; a credential may have several."""

    READER = "reader"
    """Counts, likers, watches and the change feed."""
    WRITER = "writer"
    """Likes and unlikes."""
    OPERATOR = "operator"
    """The ring, the nodes, imports, exports and erasures."""
    NODE = "node"
    """A part of the cluster: a router, a node, a replica."""


class Rule(NamedTuple):
    """Who may make a call.

    ``anybody``: without any credential, too. ``users``: in whose name a request writes, for tokens that are bound to
    one user.
    """

    roles: frozenset[Role]
    anybody: bool = False
    users: Callable[[Any], Iterable[str]] | None = None


_READERS: Final = Rule(frozenset({Role.READER}))
_OPERATORS: Final = Rule(frozenset({Role.OPERATOR}))
_NODES: Final = Rule(frozenset({Role.NODE}))
_ALL_ROLES: Final = Rule(frozenset(Role))
_ANYBODY: Final = Rule(frozenset(Role), anybody=True)
_OWN_LIKES: Final = Rule(frozenset({Role.WRITER}), users=lambda request: (request.user_id,))
_OWN_BATCHES: Final = Rule(
    frozenset({Role.WRITER}), users=lambda request: (mutation.user_id for mutation in request.mutations)
)


_TABLE: Final[tuple[tuple[str, Rule, str], ...]] = (
    ("likering.v1.LikeService", _OWN_LIKES, "Like Unlike"),
    ("likering.v1.LikeService", _OWN_BATCHES, "MutateLikes"),
    ("likering.v1.LikeService", _READERS, "HasLiked GetLikeCount GetLikeSummaries FilterLikers"),
    ("likering.v1.LikeService", _READERS, "ListLikers ListLikedPosts WatchLikeCounts StreamLikeEvents"),
    ("likering.admin.v1.RingService", _OPERATORS, "GetTopology WatchTopology CheckTopology"),
    ("likering.admin.v1.RingService", _OPERATORS, "PlanResize ApplyPlan RevertSlot ListResizes"),
    ("likering.admin.v1.RingService", _OPERATORS, "ListMoves WatchMoves PauseMoves ResumeMoves CancelMoves"),
    ("likering.admin.v1.RingService", _OPERATORS, "SetMoveLimits AddNode DrainNode UndrainNode RemoveNode"),
    ("likering.admin.v1.RingService", _OPERATORS, "RemoveReplica"),
    ("likering.admin.v1.LikeAdminService", _OPERATORS, "VerifyCounts RepairCounts ListHotPosts"),
    ("likering.admin.v1.LikeAdminService", _OPERATORS, "PurgePost PurgeUser ImportLikes ExportLikes"),
    ("likering.shard.v1.ShardService", _NODES, "Execute ListLikers ListLikedPosts GetTopology"),
    ("likering.shard.v1.ShardService", _NODES, "WatchCounts UpdateWatch StreamChanges ApplyUserLikes"),
    ("likering.shard.v1.ShardService", _NODES, "DescribeSource FreezeSlot UnfreezeSlot StopReads SlowWrites"),
    ("likering.shard.v1.ShardService", _NODES, "GetInventory GetLoad"),
    ("likering.shard.v1.ShardAdminService", _NODES, "VerifyCounts RepairCounts ListHotPosts"),
    ("likering.shard.v1.ShardAdminService", _NODES, "PurgePost PurgeUser ImportLikes ExportLikes"),
    # Probes and load balancers have no credential, and learn no more than whether calls are taken.
    ("grpc.health.v1.Health", _ANYBODY, "Check Watch List"),
    ("grpc.reflection.v1alpha.ServerReflection", _ALL_ROLES, "ServerReflectionInfo"),
)

RULES: Final[Mapping[str, Rule]] = {
    f"{service}/{method}": rule for service, rule, methods in _TABLE for method in methods.split()
}
"""By full name of the method."""


def rule_of(method: str) -> Rule:
    """The rule of a method (``package.Service/Method``). Raises LookupError when it has none: it must not be served."""
    try:
        return RULES[method]
    except KeyError:
        raise LookupError(f"{method} has no rule in likering.security.roles") from None
