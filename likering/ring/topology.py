"""One immutable snapshot of a cluster: its nodes and who owns each slot, under one version number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from likering.ring.hashing import check_slot_count, slot_of

MAX_WEIGHT = 1000


class NodeState(StrEnum):
    """What a node may hold: an active node gets its quota of slots, a draining one is to hold none."""

    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Node:
    """One shard node.

    ``uuid`` is its database's own and never changes, ``address`` is the host:port that others call, ``weight``
    (1 to 1000) its share of the slots, and ``generation`` grows with each process that takes over its writing.
    """

    name: str
    uuid: str
    address: str
    weight: int
    state: NodeState
    generation: int


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes and the slot map of one version. ``nodes`` is by name, in the order of the names.

    ``owners`` holds each slot's node name, None before the first assignment; ``epochs`` how often each slot was
    given an owner, so 0 for one that never had any. ``replicas`` holds, by a node's name, the sorted host:port of those
    that answer stale reads from a copy of its database; a node without any is left out. Raises ValueError when the
    parts contradict each other.
    """

    cluster_id: str
    version: int
    slot_count: int
    nodes: Mapping[str, Node]
    owners: tuple[str | None, ...]
    epochs: tuple[int, ...]
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_slot_count(self.slot_count)
        if len(self.owners) != self.slot_count or len(self.epochs) != self.slot_count:
            raise ValueError(
                f"{self.slot_count} slots with {len(self.owners)} owners and {len(self.epochs)} epochs"
            )
        unknown = set(self.owners) - {None} - self.nodes.keys()
        if unknown:
            raise ValueError(f"Slots are owned by unknown nodes: {', '.join(sorted(map(str, unknown)))}")
        for slot, (owner, epoch) in enumerate(zip(self.owners, self.epochs, strict=True)):
            if epoch < 0 or (owner is None) != (epoch == 0):
                raise ValueError(f"Slot {slot} has owner {owner!r} at epoch {epoch}")
        if strange := self.replicas.keys() - self.nodes.keys():
            raise ValueError(f"There are replicas of unknown nodes: {', '.join(sorted(strange))}")
        object.__setattr__(self, "nodes", MappingProxyType(dict(sorted(self.nodes.items()))))
        replicas = {
            name: tuple(sorted(addresses)) for name, addresses in sorted(self.replicas.items()) if addresses
        }
        object.__setattr__(self, "replicas", MappingProxyType(replicas))

    def __repr__(self) -> str:
        return f"Topology(version={self.version}, slots={self.slot_count}, nodes=[{', '.join(self.nodes)}])"

    def slot_of(self, key: str) -> int:
        """The slot of a post id or a user id."""
        return slot_of(key, self.slot_count)

    def slots_of(self, node_name: str) -> dict[int, int]:
        """The slots that a node owns, each with its epoch."""
        return {slot: self.epochs[slot] for slot, owner in enumerate(self.owners) if owner == node_name}

    def with_owner(self, version: int, slot: int, owner: str, epoch: int) -> Topology:
        """The topology of the next version, in which one slot has another owner. Raises ValueError when none can be."""
        if version != self.version + 1 or not 0 <= slot < self.slot_count:
            raise ValueError(f"Version {version} with a new owner of slot {slot} does not follow {self!r}")
        return replace(
            self,
            version=version,
            owners=(*self.owners[:slot], owner, *self.owners[slot + 1 :]),
            epochs=(*self.epochs[:slot], epoch, *self.epochs[slot + 1 :]),
        )

    @property
    def unowned(self) -> tuple[int, ...]:
        """The slots that were never assigned."""
        return tuple(slot for slot, owner in enumerate(self.owners) if owner is None)

    @property
    def weights(self) -> dict[str, int]:
        """The weight of each active node: what the slots are to be placed on."""
        return {name: node.weight for name, node in self.nodes.items() if node.state is NodeState.ACTIVE}

    def to_json(self) -> bytes:
        """The canonical form: equal topologies give equal bytes, so a checksum of them compares."""
        value: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "version": self.version,
            "slot_count": self.slot_count,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "owners": self.owners,
            "epochs": self.epochs,
        }
        if self.replicas:  # without any: the bytes that programs give which know of none
            value["replicas"] = dict(self.replicas)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Topology:
        """The topology that ``to_json`` was given. Raises ValueError when the bytes are no topology."""
        value: dict[str, Any] = json.loads(data)
        try:
            nodes = {
                node["name"]: Node(
                    name=node["name"],
                    uuid=node["uuid"],
                    address=node["address"],
                    weight=node["weight"],
                    state=NodeState(node["state"]),
                    generation=node["generation"],
                )
                for node in value["nodes"]
            }
            return cls(
                cluster_id=value["cluster_id"],
                version=value["version"],
                slot_count=value["slot_count"],
                nodes=nodes,
                owners=tuple(value["owners"]),
                epochs=tuple(value["epochs"]),
                replicas={
                    name: tuple(addresses) for name, addresses in dict(value.get("replicas", {})).items()
                },
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"This JSON is no topology: {error}") from error
