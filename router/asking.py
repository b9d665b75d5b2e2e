"""One question to the node that owns a post: asked again while the slot moves or the node is away.

For calls that are no operations of a batch. They only read, so asking twice does no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, Protocol, TypeVar

import grpc

from likering.errors import InternalError, LikeringError, ShardUnavailable, SlotMoving, WrongCluster
from likering.serving.trail import Visit, trail_of_call
from likering.shard.v1 import shard_service_pb2 as shard
from router.fragments import BatchLost
from router.lane import BatchNotSent, BatchRefused
from router.node_client import NodeClient
from router.patience import FIRST_MOVING_BACKOFF, MARGIN, RECHECK, TOPOLOGY_PATIENCE, Patience, Surroundings

MOST_SECONDS: Final = 10.0
"""Seconds for which one node is waited for."""


class Answer(Protocol):
    """What every such answer says besides."""

    @property
    def code(self) -> shard.OpCode.ValueType: ...
    @property
    def topology_version(self) -> int: ...


A = TypeVar("A", bound=Answer)


class Owners(Surroundings, Protocol):
    """What is needed of the dispatch."""

    @property
    def topology_version(self) -> int: ...

    def owner_of(self, post_id: str) -> tuple[NodeClient | None, int]:
        """The node that owns the post's slot, None when nobody does, and the slot's epoch."""
        ...

    def unrouted(self) -> LikeringError:
        """Why a slot may have no owner."""
        ...

    def refresh_soon(self) -> None:
        """Asks for a newer topology."""
        ...


async def ask_owner(
    owners: Owners, post_id: str, ask: Callable[[NodeClient, int, float], Awaitable[A]], deadline: float
) -> A:
    """What ``ask(node, epoch, timeout)`` answers. The deadline is on the monotonic clock. Raises LikeringError."""
    patience = Patience(owners, deadline - MARGIN)
    trail = trail_of_call.get()
    while True:
        pulse = owners.pulse
        node, epoch = owners.owner_of(post_id)
        if node is None:
            reason, delay = owners.unrouted(), RECHECK
        else:
            reason, delay = ShardUnavailable(), patience.backoff()
            asked = monotonic()
            left = max(deadline - MARGIN - asked, MARGIN)
            try:
                answer = await ask(node, epoch, min(left, MOST_SECONDS))
            except BatchNotSent:
                delay = RECHECK
            except BatchLost:
                pass
            except BatchRefused as refusal:
                reason = ShardUnavailable() if isinstance(refusal.error, WrongCluster) else refusal.error
                if reason.code is not grpc.StatusCode.UNAVAILABLE:
                    raise reason from refusal
            else:
                match answer.code:
                    case shard.OP_CODE_UNSPECIFIED:
                        return answer
                    case shard.OP_CODE_NOT_OWNER:
                        reason = SlotMoving()
                        if answer.topology_version > owners.topology_version:
                            owners.refresh_soon()
                            delay = TOPOLOGY_PATIENCE
                    case shard.OP_CODE_MOVING:
                        reason, delay = SlotMoving(), patience.backoff(FIRST_MOVING_BACKOFF)
                    case shard.OP_CODE_UNAVAILABLE:
                        pass
                    case _:
                        raise InternalError
            finally:
                if trail is not None:
                    trail.visits.append((asked, Visit(node.name, asked, monotonic(), {})))
        if not await patience.wait(pulse, delay):
            raise reason
