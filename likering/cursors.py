"""Cursors of the change feed: how far a consumer is in each slot, opaque to it and good for this cluster only.

A position is a revision of the slot. After catching up most slots stand at the same few revisions, one per node, so a
cursor lists the distinct ones (as varints of their differences) and for each slot which of them it is: some 100
characters for 64 slots. Before them stands when the consumer began: whatever ended before that it was never told of
(decision 0020). A keyed checksum, as page tokens have it, makes an error of any cursor that was changed, cut or taken
from elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from likering.errors import CursorInvalid, FieldViolation, InvalidArgument

BEGINNING: Final = 0
"""The position before all revisions."""
FROM_NOW: Final = -1
"""A position still to be found out: that of the newest change. No cursor has it."""

_FORM: Final = 2
_FORM_WITHOUT_BEGIN: Final = 1
"""Of versions that swept nothing."""
_CHECK_BYTES: Final = 10
_MOST_CHARACTERS: Final = 512 * 1024
"""Above what 16384 slots with 16384 distinct positions need."""


class Standing(NamedTuple):
    """Where a consumer stands. ``positions``: slot → revision, BEGINNING or FROM_NOW.

    ``began``: µs since 1970, of before it was told anything at all; 0 when that is not known.
    """

    positions: dict[int, int]
    began: int = 0


class Cursors:
    """The cursors of one cluster. All servers that use the same key take each other's."""

    def __init__(self, key: str, slot_count: int) -> None:
        self._key = blake2b(f"StreamLikeEvents {key}".encode()).digest()
        self._slot_count = slot_count

    def __repr__(self) -> str:
        return f"<Cursors of {self._slot_count} slots>"

    def make(self, positions: Mapping[int, int], began: int = 0) -> str:
        """The cursor of these positions (slot → revision, 0 or more) of a consumer that began then."""
        slots = sorted(positions)
        stands = [positions[slot] for slot in slots]
        distinct = sorted(set(stands))
        data = bytearray((_FORM,))
        members = 0
        for slot in slots:
            members |= 1 << slot
        data += members.to_bytes(self._slot_count // 8 + 1, "little")
        _add_varint(data, began)
        _add_varint(data, len(distinct))
        before = 0
        for position in distinct:
            _add_varint(data, position - before)
            before = position
        index = {position: number for number, position in enumerate(distinct)}
        data += struct.pack(_numbers(len(distinct), len(stands)), *map(index.__getitem__, stands))
        return _text(bytes(data) + self._check(bytes(data)))

    def read(self, cursor: str) -> Standing:
        """What a cursor says that ``make`` gave, by this cluster's key. Raises CursorInvalid for any other."""
        try:
            if len(cursor) > _MOST_CHARACTERS:
                raise ValueError  # noqa: TRY301 - one way out for all that is not ours
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        data, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        # Compared as text, too: base64 has spare bits, and no other spelling is ours.
        known = bool(data) and data[0] in (_FORM, _FORM_WITHOUT_BEGIN)
        if not known or check != self._check(data) or _text(raw) != cursor:
            raise InvalidArgument.of(
                [FieldViolation("cursor", CursorInvalid.reason, "not a cursor of this cluster's events")]
            )
        # From here on it is what ``make`` wrote: nobody else has the key's checksum.
        end = 1 + self._slot_count // 8 + 1
        members = int.from_bytes(data[1:end], "little")
        slots = [slot for slot in range(self._slot_count) if members >> slot & 1]
        began = 0
        if data[0] == _FORM:
            began, end = _varint(data, end)
        count, end = _varint(data, end)
        distinct: list[int] = []
        before = 0
        for _ in range(count):
            step, end = _varint(data, end)
            before += step
            distinct.append(before)
        numbers = struct.unpack(_numbers(count, len(slots)), data[end:])
        return Standing({slot: distinct[number] for slot, number in zip(slots, numbers, strict=True)}, began)

    def begin(self, cursor: str, slots: Sequence[int], *, from_now: bool, now: int = 0) -> Standing:
        """Where a consumer begins who gives this cursor (empty: none) and these slots (empty: all).

        ``now`` in µs since 1970. Raises CursorInvalid and SlotUnknown.
        """
        stands = self.read(cursor) if cursor else None
        known = range(self._slot_count) if stands is None else stands.positions
        seen: set[int] = set()
        violations: list[FieldViolation] = []
        for place, slot in enumerate(slots):
            if slot not in known or slot in seen:
                what = "named twice" if slot in seen else "no slot of the cursor" if cursor else "no slot"
                violations.append(FieldViolation(f"slots[{place}]", "SLOT_UNKNOWN", f"{slot} is {what}"))
            seen.add(slot)
        if violations:
            raise InvalidArgument.of(violations)
        wanted = slots or known
        if stands is None:
            if from_now:
                return Standing(dict.fromkeys(wanted, FROM_NOW))
            return Standing(dict.fromkeys(wanted, BEGINNING), now)
        return Standing({slot: stands.positions[slot] for slot in wanted}, stands.began)

    def _check(self, data: bytes) -> bytes:
        return blake2b(data, key=self._key, digest_size=_CHECK_BYTES).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _numbers(distinct: int, slots: int) -> str:
    return f">{slots}{'B' if distinct <= 256 else 'H'}"


def _add_varint(data: bytearray, value: int) -> None:
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
