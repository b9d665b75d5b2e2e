"""A node that joins and takes its share of the slots by itself, if it is told to: ``--auto-rebalance``."""

from __future__ import annotations

import asyncio

import structlog

from likering.errors import LikeringError
from likering.ring.plan import plan
from likering.topology.moves import MoveStore
from likering.topology.watch import TopologyWatch

log = structlog.get_logger(__name__)

RETRY = 1.0
"""Seconds between two tries when others change the topology, or it does not answer."""


async def join(node_name: str, watch: TopologyWatch, moves: MoveStore) -> None:
    """Applies a plan once, as soon as this node has registered and every slot has an owner.

    A node that owns slots already has joined before: nothing is done. A plan is for all active nodes, so of several
    that join at once the first takes the others along; those find nothing left to do.
    """
    topology = await watch.at_least(0)
    while True:
        node = topology.nodes.get(node_name)
        if node is None or topology.unowned:
            topology = await watch.newer_than(topology.version)
            continue
        if topology.slots_of(node_name) or node_name not in topology.weights:
            return
        try:
            pending = await moves.moves()
            if any(move.target == node_name for move in pending):
                return
            wanted = plan(topology)
            resize = await moves.apply(
                topology.version,
                [move for move in wanted.moves if move.source is not None],
                {"version": topology.version, "minimum": wanted.minimum},
                f"{node_name} joined",
            )
        except LikeringError as error:
            log.info("cannot join yet", reason=error.message)
            await asyncio.sleep(RETRY)
            topology = watch.latest or topology
        else:
            log.info("joins by itself", resize=resize, moves=wanted.moved)
            return
