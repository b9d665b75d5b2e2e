"""What a store of the topology can do, whatever keeps it, and how it says no."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from likering.errors import NotFound, NotPossible, TopologyUnavailable
from likering.ring.topology import MAX_WEIGHT, NodeState, Topology

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class ClusterMissing(TopologyUnavailable):
    """The topology database holds no cluster yet; make one with: likering cluster init --slots N"""


class SchemaOutdated(TopologyUnavailable):
    """The topology database's schema is older than this program needs; bring it up with: likering cluster upgrade"""


class ClusterExists(NotPossible):
    """The topology database holds a cluster already."""


class NodeRefused(NotPossible):
    """The node cannot be part of this cluster as it is."""


class NodeSuperseded(NodeRefused):
    """Another process writes for the node by now."""


class NodeUnknown(NotFound):
    """No node of that name has registered."""

    @staticmethod
    def of(name: str, known: Iterable[str]) -> NodeUnknown:
        """The error that names the nodes that are known."""
        return NodeUnknown(f"No node {name} has registered; known are: {', '.join(known) or 'none'}")


class ReplicaUnknown(NotFound):
    """No replica of that address has registered."""

    @staticmethod
    def of(address: str, known: Iterable[str]) -> ReplicaUnknown:
        """The error that names the replicas that are known."""
        return ReplicaUnknown(
            f"No replica at {address} has registered; known are: {', '.join(known) or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    """What a node says about itself when it becomes the writer.

    ``cluster_id`` is the cluster that its database remembers, None on its first start; ``uuid`` is its database's own,
    ``system_identifier`` that of its Postgres server. ``weight`` counts at the node's first registration only: from
    then on the topology's counts, which operators change. Raises ValueError for values that no node can have.
    """

    cluster_id: str | None
    name: str
    uuid: str
    address: str
    weight: int
    generation: int
    system_identifier: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"A node's name has 1 to 63 letters, digits, dots, dashes and underscores, not {self.name!r}"
            )
        check_weight(self.weight)
        check_address(self.address)
        if self.generation < 0:
            raise ValueError(f"A node's generation is not negative: {self.generation}")
        # One spelling, the one that the database answers with.
        object.__setattr__(self, "uuid", str(uuid.UUID(self.uuid)))


def check_address(address: str) -> None:
    """Raises ValueError unless others can call a node or a replica at this address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"A node's address is host:port, not {address!r}")


def check_weight(weight: int) -> None:
    """Raises ValueError unless a node can have this weight."""
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"A node's weight is from 1 to {MAX_WEIGHT}, not {weight}")


@dataclass(frozen=True, slots=True)
class NewOwner:
    """What a move changes of the topology."""

    slot: int
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TopologyChange:
    """There is a topology of ``version``. ``new_owner``: all that it changes, where that is known; else read it."""

    version: int
    new_owner: NewOwner | None = None


class TopologyStore(Protocol):
    """Keeps the topology. Every call raises TopologyUnavailable, in bounded time, when the store does not answer.

    After that the outcome of a change is unknown: ``register``, ``register_replica`` and ``set_node`` may be repeated
    as they are, before ``assign`` the topology is to be read again, and after ``remove_node`` and ``remove_replica`` a
    repetition may find no such thing.
    """

    async def get(self, known: Topology | None = None) -> Topology:
        """The newest topology; ``known`` itself when that is it. Raises ClusterMissing when no cluster was made yet."""

    async def register(self, registration: NodeRegistration) -> Topology:
        """Add a node, or update what it says of itself (address, generation, system identifier).

        A node that is known keeps its weight, its state and its slots. Raises WrongCluster when it belongs to another
        cluster, NodeRefused when its name or its uuid stands for another node, NodeSuperseded when a higher generation
        has registered.
        """

    async def assign(self, expected_version: int, owners: Mapping[int, str]) -> Topology:
        """Give slots that never had an owner their first one (slot → node name), at epoch 1.

        Raises TopologyChanged unless the topology is still at ``expected_version``, and ValueError for a slot that
        has an owner or a node that is not active in that version.
        """

    async def set_node(
        self, name: str, *, weight: int | None = None, state: NodeState | None = None
    ) -> Topology:
        """Change a node's weight, its state, or both; None: as it is. Moves no slot: a plan does.

        Raises NodeUnknown, and ValueError for a weight that no node can have.
        """

    async def remove_node(self, name: str) -> Topology:
        """Forget a node. It comes back as a new one if it registers again.

        Raises NodeUnknown, and NodeOwnsSlots while it owns a slot or takes part in a move that has not ended.
        """

    async def register_replica(self, cluster_id: str, node: str, address: str) -> Topology:
        """Add a replica of a node: who answers stale reads at this host:port. Registering it again changes nothing.

        Raises WrongCluster, NodeUnknown, and ValueError for what is no address.
        """

    async def remove_replica(self, address: str) -> Topology:
        """Forget a replica. Raises ReplicaUnknown."""

    def changes(self) -> AsyncGenerator[TopologyChange, None]:
        """The present version, then each new one that the store tells of; some may be left out, the newest is not.

        Raises TopologyUnavailable when the connection breaks; call it again then.
        """

    async def close(self) -> None:
        """Give back what the store holds; calls that are going on fail."""
