"""What makes started servers one cluster: its creation in the topology database, and the first owners of slots."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from contextlib import suppress

from likering.dev.errors import DevError, Interrupted
from likering.errors import LikeringError, TopologyChanged
from likering.ring.placement import place
from likering.topology.postgres import PostgresTopologyStore, create_cluster
from likering.topology.store import ClusterExists

_LOOK_SECONDS = 0.05


def create_cluster_once(dsn: str, slots: int) -> bool:
    """Whether the cluster was made now; False when the topology database holds it already. Raises DevError."""
    try:
        asyncio.run(create_cluster(dsn, slots))
    except ClusterExists:
        return False
    except LikeringError as error:
        raise DevError(f"the cluster cannot be created: {error.message}") from error
    return True


def await_nodes(
    dsn: str, names: Collection[str], timeout: float, *, assign: bool, cancel: threading.Event
) -> int:
    """Waits until the nodes have registered; with ``assign``, gives slots that never had an owner to all nodes.

    Returns how many slots were given. Raises DevError, at the latest after ``timeout`` seconds, and Interrupted when
    ``cancel`` is set meanwhile.
    """
    try:
        return asyncio.run(_await_nodes(dsn, names, timeout, assign=assign, cancel=cancel))
    except LikeringError as error:
        raise DevError(f"the topology cannot be read: {error.message}") from error


async def _await_nodes(
    dsn: str, names: Collection[str], timeout: float, *, assign: bool, cancel: threading.Event
) -> int:
    store = PostgresTopologyStore(dsn)
    deadline = time.monotonic() + timeout
    try:
        while True:
            topology = await store.get()
            missing = set(names) - topology.nodes.keys()
            if not missing:
                if not assign or not topology.unowned:
                    return 0
                owners = place(topology.owners, topology.weights, move_owned=False)
                first = {slot: owner for slot in topology.unowned if (owner := owners[slot]) is not None}
                # A node that registers this very moment makes this fail; the next look finds it.
                with suppress(TopologyChanged):
                    await store.assign(topology.version, first)
                    return len(first)
            if cancel.is_set():
                raise Interrupted("the cluster is being stopped")
            if time.monotonic() > deadline:
                raise DevError(f"not registered after {timeout:.0f} s: {', '.join(sorted(missing))}")
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await store.close()
