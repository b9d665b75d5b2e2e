"""Says which string fields of a message that does not parse are not valid UTF-8.

protobuf answers such a message with a bare DecodeError. A mirror of the message's type, with every ``string`` turned
into ``bytes``, parses the same wire format and holds what the sender put there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

from likering.errors import FieldViolation, InvalidArgument, LikeringError, MessageMalformed

_NUL = b"\0"


def explain(message_type: Descriptor, data: bytes) -> LikeringError:
    """The error to answer for bytes that are no ``message_type``: ID_NOT_PRINTABLE or MESSAGE_MALFORMED."""
    mirror = _parse_mirror(message_type, data)
    if mirror is None:
        return MessageMalformed()
    violations = [
        FieldViolation(path, "ID_NOT_PRINTABLE", "an id is valid UTF-8")
        for path, _, _ in _undecodable(message_type, mirror, "")
    ]
    return InvalidArgument.of(violations) if violations else MessageMalformed()


def with_nul(message_type: Descriptor, data: bytes) -> bytes | None:
    """The same message with a NUL in place of each string that is not valid UTF-8; None if that does not help.

    For services whose validation refuses an id with a NUL field by field, item by item: so one undecodable id in a
    batch does not spoil its neighbours.
    """
    mirror = _parse_mirror(message_type, data)
    if mirror is None:
        return None
    # A list first: the mirror must not change while it is walked through.
    for _, holder, (name, index) in list(_undecodable(message_type, mirror, "")):
        if index is None:
            setattr(holder, name, _NUL)
        else:
            getattr(holder, name)[index] = _NUL
    return mirror.SerializeToString()


def _undecodable(
    real: Descriptor, mirror: Message, path: str
) -> Iterator[tuple[str, Message, tuple[str, int | None]]]:
    """Path, message and place of each string of the mirror that is not valid UTF-8."""
    for field, value in mirror.ListFields():
        kind = real.fields_by_number[field.number]
        if kind.message_type is not None and kind.message_type.GetOptions().map_entry:
            continue  # no id is in a map
        repeated = field.is_repeated
        for index, item in enumerate(value if repeated else [value]):
            place = f"{path}{field.name}[{index}]" if repeated else f"{path}{field.name}"
            if kind.message_type is not None:
                yield from _undecodable(kind.message_type, item, f"{place}.")
            elif kind.type == FieldDescriptor.TYPE_STRING and not _is_utf8(item):
                yield place, mirror, (field.name, index if repeated else None)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse_mirror(message_type: Descriptor, data: bytes) -> Message | None:
    try:
        return _mirror_class(message_type).FromString(data)
    except DecodeError:
        return None


@lru_cache(maxsize=64)
def _mirror_class(message_type: Descriptor) -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    _add(message_type.file, pool, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(message_type.full_name))


def _add(file: FileDescriptor, pool: descriptor_pool.DescriptorPool, done: set[str]) -> None:
    if file.name in done:
        return
    done.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, done)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    proto.ClearField("options")
    for message in proto.message_type:
        _strings_to_bytes(message)
    pool.Add(proto)


def _strings_to_bytes(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if message.options.map_entry and field.name == "key":
            continue  # bytes cannot be the key of a map
        if field.type == FieldDescriptor.TYPE_STRING:
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    for nested in message.nested_type:
        _strings_to_bytes(nested)
