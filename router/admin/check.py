"""Compares the topology with what each node's database holds: owners, epochs, and what moves have left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from likering.admin.v1 import ring_service_pb2 as api
from likering.ring.topology import Topology
from likering.shard.v1 import shard_service_pb2 as shard
from likering.topology.move_names import parse_replication, parse_table
from likering.topology.moves import SETTLED, MoveState, SlotMove

_TAKING_UP: Final = frozenset((MoveState.COMMITTED, MoveState.ACTIVATING))
"""The target is the owner by the topology, and not yet by its own database."""
_FROZEN_AT_SOURCE: Final = _TAKING_UP | {MoveState.FREEZING, MoveState.ACTIVE}
_KEPT_AT_SOURCE: Final = frozenset((MoveState.ACTIVE, MoveState.MOVED, MoveState.VERIFIED))

_WITH_THE_MOVE: Final = "nothing: it goes with its move"
_FOLLOWS_TOPOLOGY: Final = (
    "check again in a few seconds, since a node follows the topology by itself; restart it if this stays"
)


class Check:
    """One look at a cluster.

    ``moves``: those that have not ended; ``inventories``: by name, of the nodes that answered. All of the same moment:
    what changes between the looks appears as a contradiction.
    """

    def __init__(
        self,
        topology: Topology,
        moves: Iterable[SlotMove],
        inventories: Mapping[str, shard.GetInventoryResponse],
    ) -> None:
        self._topology = topology
        self._inventories = inventories
        self._by_number = {move.move: move for move in moves}
        self._by_slot = {move.slot: move for move in self._by_number.values() if move.state not in SETTLED}

    def findings(self) -> list[api.Finding]:
        """What is not as it should be, by node."""
        return [
            finding
            for node, inventory in sorted(self._inventories.items())
            for finding in (
                *self._slots(node, inventory),
                *self._replication(node, inventory),
                *self._tables(node, inventory),
            )
        ]

    def _slots(self, node: str, inventory: shard.GetInventoryResponse) -> Iterator[api.Finding]:
        held = {row.slot: row for row in inventory.slots}
        owned = self._topology.slots_of(node)
        for slot, epoch in owned.items():
            finding = self._owned_slot(node, slot, epoch, held.get(slot))
            if finding is not None:
                yield finding
        for slot, row in sorted(held.items()):
            if slot not in owned:
                finding = self._other_slot(node, slot, row)
                if finding is not None:
                    yield finding

    def _owned_slot(self, node: str, slot: int, epoch: int, row: shard.HeldSlot | None) -> api.Finding | None:
        move = self._by_slot.get(slot)
        taking_up = move is not None and move.target == node and move.state in _TAKING_UP
        if row is None:
            what = f"slot {slot} is this node's at epoch {epoch}, but its database does not hold it"
        elif row.state == "frozen":
            if move is not None and move.source == node and move.state is MoveState.FREEZING:
                return None
            what = f"slot {slot} is frozen at epoch {row.epoch}, but no move is freezing it"
            # A move that was given up in time thaws the slot next.
            taking_up = taking_up or (move is not None and move.source == node)
        elif row.state != "owner":
            what = f"slot {slot} is this node's at epoch {epoch}, but its database has it as {row.state}"
        elif row.epoch != epoch:
            what = f"slot {slot} is at epoch {epoch} in the topology, but at {row.epoch} in the database"
        else:
            return None
        remedy = f"wait for the {move}" if taking_up else self._older_topology(slot) or _FOLLOWS_TOPOLOGY
        return _finding(node, what, remedy, transient=taking_up)

    def _other_slot(self, node: str, slot: int, row: shard.HeldSlot) -> api.Finding | None:
        move = self._by_slot.get(slot)
        owner = self._topology.owners[slot] if slot < self._topology.slot_count else None
        if row.state == "owner":
            return _finding(
                node,
                f"the database has this node as the owner of slot {slot} at epoch {row.epoch}, but in the topology"
                f" it is {f'node {owner}' if owner else 'nobody'}",
                self._older_topology(slot)
                or "stop the node's process, so that it cannot write; then find out which of the two holds the slot's"
                " newest likes before you change anything",
            )
        if row.state == "frozen" and not (
            move is not None and move.source == node and move.state in _FROZEN_AT_SOURCE
        ):
            return _finding(
                node,
                f"slot {slot} is frozen at epoch {row.epoch}, but no move has frozen it and node {owner} owns it",
                _FOLLOWS_TOPOLOGY,
            )
        return None

    def _older_topology(self, slot: int) -> str:
        """What to do if it is the topology that is wrong, from a backup of before a move; empty if it may not be.

        Of a node that has not answered nothing is known, and it may have the slot at a later epoch still.
        """
        owners = [
            (row.epoch, node)
            for node, inventory in self._inventories.items()
            for row in inventory.slots
            if row.slot == slot and row.state == "owner"
        ]
        if (
            slot >= self._topology.slot_count
            or len(owners) != 1
            or self._topology.nodes.keys() - self._inventories
        ):
            return ""
        ((epoch, owner),) = owners
        if epoch <= self._topology.epochs[slot]:
            return ""
        return (
            f"the topology is older than node {owner}'s database, as from a backup: in the topology's Postgres, UPDATE"
            f" likering.slots SET owner = '{owner}', epoch = {epoch} WHERE slot = {slot}; and after the last of these,"
            " UPDATE likering.cluster SET version = N, above all that the logs of routers and nodes name"
        )

    def _replication(self, node: str, inventory: shard.GetInventoryResponse) -> Iterator[api.Finding]:
        kinds = (
            ("publication", inventory.publications, "DROP PUBLICATION {0}"),
            (
                "subscription",
                inventory.subscriptions,
                "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE); DROP SUBSCRIPTION {0}",
            ),
            ("replication slot", inventory.replication_slots, "SELECT pg_drop_replication_slot('{0}')"),
        )
        for kind, names, statement in kinds:
            for name in sorted(names):
                made_by = parse_replication(name)
                if made_by is None:
                    yield _unknown(node, kind, name)
                    continue
                number, attempt = made_by.move, made_by.attempt
                move = self._by_number.get(number)
                at = None if move is None else move.target if kind == "subscription" else move.source
                current = move is not None and at == node and move.attempt == attempt
                yield _finding(
                    node,
                    f"{kind} {name} of {self._described(number, attempt)}",
                    _WITH_THE_MOVE if current else _by_hand(statement.format(name)),
                    transient=current,
                )

    def _tables(self, node: str, inventory: shard.GetInventoryResponse) -> Iterator[api.Finding]:
        for name in sorted(inventory.tables):
            table = parse_table(name)
            if table is None:
                yield _unknown(node, "table", name)
            elif table.move is None:
                finding = self._partition(node, name, table.parent, table.slot)
                if finding is not None:
                    yield finding
            else:
                yield self._copy(node, name, table.move, table.attempt)

    def _partition(self, node: str, name: str, parent: str, slot: int) -> api.Finding | None:
        owner = self._topology.owners[slot] if slot < self._topology.slot_count else None
        if owner == node:
            return None
        move = self._by_slot.get(slot)
        if move is not None and node in (move.source, move.target):
            return _finding(
                node, f"table {name}, of the {move}, which is {move.state}", _WITH_THE_MOVE, transient=True
            )
        return _finding(
            node,
            f"table {name}, but {f'node {owner}' if owner else 'nobody'} owns slot {slot} and no move needs it",
            f"make sure that node {owner} has the slot's likes; then "
            + _by_hand(f"ALTER TABLE {parent} DETACH PARTITION {name} CONCURRENTLY; DROP TABLE {name}"),
        )

    def _copy(self, node: str, name: str, number: int, attempt: int | None) -> api.Finding:
        """A copy that a source keeps, or with an attempt, one that a target fills."""
        move = self._by_number.get(number)
        if attempt is None:
            kind = "copy kept in table"
            current = move is not None and move.source == node and move.state in _KEPT_AT_SOURCE
        else:
            kind = "copy made in table"
            current = move is not None and move.target == node and move.attempt == attempt
        return _finding(
            node,
            f"{kind} {name} of {self._described(number, attempt)}",
            _WITH_THE_MOVE if current else _by_hand(f"DROP TABLE {name}"),
            transient=current,
        )

    def _described(self, number: int, attempt: int | None) -> str:
        move = self._by_number.get(number)
        if move is None:
            return f"move {number}, which has ended"
        if attempt is not None and attempt != move.attempt:
            return f"attempt {attempt} of {move}, which is at attempt {move.attempt}"
        return f"{move}, which is {move.state}"


def _unknown(node: str, kind: str, name: str) -> api.Finding:
    return _finding(
        node, f"{kind} {name}, whose name this version does not know", "use the newest version of likering"
    )


def _by_hand(statements: str) -> str:
    return f"in the node's Postgres: {statements}"


def _finding(node: str, what: str, remedy: str, *, transient: bool = False) -> api.Finding:
    return api.Finding(node=node, what=what, remedy=remedy, transient=transient)
