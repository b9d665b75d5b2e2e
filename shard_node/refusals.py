"""Which operations of a unit are not executed, and why, as the writer's copies of the database's state say."""

from __future__ import annotations

from likering.shard.v1.shard_service_pb2 import (
    OP_CODE_INTENT_IN_FUTURE,
    OP_CODE_INTENT_TOO_OLD,
    OP_CODE_POST_BEING_PURGED,
    OP_CODE_USER_BEING_PURGED,
    OpCode,
)
from shard_node.commit import WriteUnit
from shard_node.ownership import Ownership
from shard_node.purge_marks import PurgeMarks
from shard_node.swept import SweptIntents
from shard_node.user_purge_marks import UserPurgeMarks


def refused_writes(
    unit: WriteUnit,
    ownership: Ownership,
    marks: PurgeMarks,
    user_marks: UserPurgeMarks,
    swept: SweptIntents,
    latest_intent: int,
) -> dict[int, OpCode.ValueType]:
    """Position → why. ``latest_intent`` in µs: what is above is too far ahead."""
    refused = ownership.refused_writes(unit.slots, unit.epochs)
    if unit.intents and max(unit.intents) > latest_intent:
        for position, intent in enumerate(unit.intents):
            if intent > latest_intent:
                refused.setdefault(position, OP_CODE_INTENT_IN_FUTURE)
    if unit.intents and swept:
        for position in swept.refused(unit.likes, unit.slots, unit.intents):
            refused.setdefault(position, OP_CODE_INTENT_TOO_OLD)
    if marks:
        for position in marks.refused(unit.likes, unit.post_ids):
            refused.setdefault(position, OP_CODE_POST_BEING_PURGED)
    if user_marks:
        for position in user_marks.refused(unit.user_ids, unit.slots):
            refused.setdefault(position, OP_CODE_USER_BEING_PURGED)
    return refused
