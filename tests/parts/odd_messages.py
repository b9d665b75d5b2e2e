"""Messages that no honest caller sends: valid ones with odd values, and the bytes of valid ones, spoilt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_IDS: Final = {
    "user_id": "user",
    "user_ids": "user",
    "viewer_user_id": "user",
    "post_id": "post",
    "post_ids": "post",
}
_TOKENS: Final = frozenset(("page_token", "cursor"))
_SLOTS: Final = frozenset(("slot", "slots"))
_SIZES: Final = frozenset(("page_size", "max_batch", "limit"))
_ODD_STRINGS: Final = (
    *("", "\0", "a\0b", " ", "x" * 128, "x" * 129, "x" * 4096, "é" * 64, "é" * 65, "\U0001f600" * 1024),
    *(
        "\u202eabc",
        "e\u0301",
        "\ufeff",
        "\uffff",
        "'; DROP TABLE likes; --",
        "%s%(a)s{0}",
        "\\x00\\",
        "$1",
        "NaN",
    ),
)
_ODD_DOUBLES: Final = (0.0, -0.0, -1.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_HUGE_VARINTS: Final = (
    b"\xff" * 9 + b"\x01",
    b"\xff" * 10,
    b"\x80" * 20,
    b"\xff" * 4 + b"\x0f",
    b"\xff" * 4 + b"\x7f",
)
_NO_UTF8: Final = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82")


@dataclass
class Known:
    """What a valid message may name. ``prepared``: messages of a type that cannot be made up, by their names."""

    users: Sequence[str]
    posts: Sequence[str]
    tokens: Sequence[str]
    nodes: Sequence[str]
    slots: int
    prepared: Mapping[str, Message]


class OddMessages:
    """An endless choice of messages for one type, the same for the same seed."""

    def __init__(self, message_type: Descriptor, known: Known, seed: int) -> None:
        self._type = message_type
        self._choose = Random(seed)
        self.known = known

    def next(self) -> bytes:
        """A message with odd values, or the spoilt bytes of a valid one; sometimes a valid one."""
        message = self._valid(self._type)
        kind = self._choose.random()
        if kind < 0.45:
            for _ in range(self._choose.choice((1, 1, 1, 2, 3))):
                self._make_odd(message)
        data = message.SerializeToString()
        if kind > 0.5:
            for _ in range(self._choose.choice((1, 1, 2, 4))):
                data = self._choose.choice(_SPOILERS)(data, self._choose)
        return data

    def _valid(self, message_type: Descriptor) -> Message:
        prepared = self.known.prepared.get(message_type.full_name)
        if prepared is not None:
            copied = type(prepared)()
            copied.CopyFrom(prepared)
            return copied
        message = GetMessageClass(message_type)()
        if message_type.full_name == "google.protobuf.Timestamp":
            message.seconds = int(time.time()) - self._choose.randrange(1000)  # type: ignore[attr-defined]
            return message
        length = self._choose.randint(1, 4)  # of all lists alike, since some of them are columns
        for field in message_type.fields:
            if self._choose.random() < 0.8 or field.name in _IDS:
                self._fill(message, field, length, odd=False)
        return message

    def _make_odd(self, message: Message) -> None:
        """Gives one field somewhere in the message an odd value."""
        fields: Sequence[Any] = message.DESCRIPTOR.fields
        if not fields:
            return
        field = self._choose.choice(fields)
        value = getattr(message, field.name)
        inside = field.message_type is not None and not _is_map(field) and self._choose.random() < 0.9
        if inside and not field.is_repeated:
            self._make_odd(value)
        elif inside and value:
            self._make_odd(self._choose.choice(value))
        else:
            message.ClearField(field.name)
            length = self._choose.choice((0, 1, 2, 3, 3, 4, 40)) if self._choose.random() < 0.97 else 1001
            self._fill(message, field, length, odd=True)

    def _fill(self, message: Message, field: FieldDescriptor, length: int, *, odd: bool) -> None:
        if field.message_type is not None and _is_map(field):
            key, value = field.message_type.fields
            items = getattr(message, field.name)
            for _ in range(min(length, 50)):
                items[self._value(key, odd=odd)] = self._value(value, odd=odd)
        elif field.message_type is not None:
            if not field.is_repeated:
                getattr(message, field.name).CopyFrom(self._valid(field.message_type))
            else:
                getattr(message, field.name).extend(self._valid(field.message_type) for _ in range(length))
        elif not field.is_repeated:
            setattr(message, field.name, self._value(field, odd=odd))
        elif length > 100:
            getattr(message, field.name).extend([self._value(field, odd=False)] * length)
        else:
            getattr(message, field.name).extend(self._value(field, odd=odd) for _ in range(length))

    def _value(self, field: FieldDescriptor, *, odd: bool) -> Any:
        choose = self._choose
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return self._odd_string() if odd else self._string(field.name)
            case FieldDescriptor.CPPTYPE_BOOL:
                return choose.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return choose.choice((-1, 7, 99, 2**31 - 1, -(2**31))) if odd else choose.randrange(4)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return choose.choice(_ODD_DOUBLES) if odd else choose.random()
        lowest, highest = _INTEGERS[field.cpp_type]
        if odd:
            edges = (lowest, lowest + 1, max(lowest, -1), 0, 1, highest - 1, highest)
            return choose.choice((*edges, choose.randint(lowest, highest)))
        if field.name == "like_times":
            return int(time.time() * 1e6) - choose.randrange(10**9)
        return choose.randrange(
            self.known.slots if field.name in _SLOTS else 20 if field.name in _SIZES else 4
        )

    def _string(self, name: str) -> str:
        known, choose = self.known, self._choose
        if name in _TOKENS:
            return choose.choice(("", *known.tokens))
        kind = _IDS.get(name)
        if kind is None:
            return choose.choice(known.nodes)
        if choose.random() < 0.2:
            return f"{kind}-{choose.randrange(10**9)}"
        return choose.choice(known.users if kind == "user" else known.posts)

    def _odd_string(self) -> str:
        if self._choose.random() < 0.8:
            return self._choose.choice(_ODD_STRINGS)
        token = self._choose.choice(self.known.tokens)
        place = self._choose.randrange(len(token))
        return token[:place] + self._choose.choice("Aa0-_=ü") + token[place + 1 :]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


# How bytes are spoilt


def _flip_bits(data: bytes, choose: Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(choose.choice((1, 1, 2, 8)) if spoilt else 0):
        spoilt[choose.randrange(len(spoilt))] ^= 1 << choose.randrange(8)
    return bytes(spoilt)


def _cut(data: bytes, choose: Random) -> bytes:
    return data[: choose.randrange(len(data) + 1)]


def _repeat(data: bytes, choose: Random) -> bytes:
    """All of it, so that single fields come twice, or any part."""
    if choose.random() < 0.5:
        return data * choose.choice((2, 3, 20))
    start = choose.randrange(len(data) + 1)
    end = min(len(data), start + choose.randrange(1, 40))
    return data[:end] + data[start:]


def _insert(pieces: Sequence[bytes]) -> Callable[[bytes, Random], bytes]:
    def insert(data: bytes, choose: Random) -> bytes:
        place = choose.randrange(len(data) + 1)
        return data[:place] + choose.choice(pieces) + data[place:]

    return insert


def _overwrite(pieces: Sequence[bytes]) -> Callable[[bytes, Random], bytes]:
    """In place, so that lengths stay right."""

    def overwrite(data: bytes, choose: Random) -> bytes:
        piece = choose.choice(pieces)
        place = choose.randrange(max(1, len(data) - len(piece) + 1))
        return data[:place] + piece + data[place + len(piece) :]

    return overwrite


def _noise(data: bytes, choose: Random) -> bytes:
    return choose.randbytes(choose.choice((0, 1, 2, 10, 100, 5000)))


def _huge_number(data: bytes, choose: Random) -> bytes:
    """In a field of its own, as a varint."""
    return data + bytes((choose.randrange(1, 8) << 3,)) + choose.choice(_HUGE_VARINTS)


def _other_wire_type(data: bytes, choose: Random) -> bytes:
    tag = bytes((choose.randrange(1, 16) << 3 | choose.randrange(8),))
    return data + tag + choose.randbytes(9)


def _nest(data: bytes, choose: Random) -> bytes:
    """Groups in groups, or messages in messages, of an unknown field or the first one."""
    depth = choose.choice((1, 50, 99, 101, 5000))
    if choose.random() < 0.5:
        return data + b"\xfb\x01" * depth + b"\xfc\x01" * depth
    nested = data
    for _ in range(min(depth, 99)):
        size = len(nested)
        if size > 10_000:
            break
        nested = b"\x0a" + bytes((size & 0x7F | 0x80, size >> 7)) + nested
    return nested


_SPOILERS: Final = (
    *(_flip_bits, _flip_bits, _flip_bits, _cut, _repeat, _noise, _huge_number, _other_wire_type, _nest),
    *(_insert(_HUGE_VARINTS), _insert(_NO_UTF8), _overwrite(_NO_UTF8), _overwrite(_NO_UTF8)),
    _overwrite((b"\0", b"\x7f", b"\x80", b"\xff\xff")),
)
