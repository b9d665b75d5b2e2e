"""From protobuf messages to plain values, as JSON output has them: every field, numbers as numbers, short enums."""

from __future__ import annotations

import re
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> dict[str, Any]:
    """All fields by name; None for a message that is not set. ``json_format.ParseDict`` takes it, but for enums."""
    # As a list of what it is for the type checker, too: the compiled library has a class of its own for the same thing.
    fields = cast("list[FieldDescriptor]", message.DESCRIPTOR.fields)
    return {field.name: _field(message, field) for field in fields}


def short_enum(field: FieldDescriptor, number: int) -> str:
    """``catching_up`` for MOVE_STATE_CATCHING_UP."""
    kind = field.enum_type
    assert kind is not None
    value = kind.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return value.name.removeprefix(prefix).lower()


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _value(entry, item) for key, item in sorted(value.items())}
    if field.is_repeated:
        return [_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return short_enum(field, value)
    return value
