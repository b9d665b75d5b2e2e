"""Page tokens: where a list goes on, opaque to callers and good for that list only.

A token carries the position and a keyed checksum over the list (call and subject) and the position, so one that was
changed, cut off or taken from another list is refused instead of being read as some other place. It is no secret: who
may ask for the list may ask for any of its pages.
"""

from __future__ import annotations

import base64
import binascii
import struct
from hashlib import blake2b
from typing import Final

from likering.errors import FieldViolation, InvalidArgument
from likering.validation import MAX_ID_BYTES

_POSITION: Final = struct.Struct(">q")
_LENGTH: Final = struct.Struct(">H")
_CHECK_BYTES: Final = 10


class PageTokens:
    """The tokens of one call. All servers that use the same key take each other's."""

    def __init__(self, key: str, call: str) -> None:
        self._key = blake2b(f"{call} {key}".encode()).digest()

    def make(self, subject: str, position: int) -> str:
        """The token for a place in the list of this subject."""
        data = _POSITION.pack(position)
        return base64.urlsafe_b64encode(data + self._check(subject, data)).decode().rstrip("=")

    def read(self, subject: str, token: str) -> int:
        """The position in a token that ``make`` gave for this subject. Raises InvalidArgument for any other."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        data = raw[: _POSITION.size]
        # Compared as text, too: base64 has spare bits, and no other spelling is ours.
        if len(raw) != _POSITION.size + _CHECK_BYTES or token != self.make(
            subject, _POSITION.unpack(data)[0]
        ):
            raise InvalidArgument.of(
                [FieldViolation("page_token", "PAGE_TOKEN_INVALID", "not a token of this list's pages")]
            )
        position: int = _POSITION.unpack(data)[0]
        return position

    def make_after(self, subject: str, position: int, last: str) -> str:
        """The token for a place in a list in which entries may share a position: after the entry of this id."""
        tail = last.encode()
        data = _POSITION.pack(position) + _LENGTH.pack(len(tail)) + tail
        return base64.urlsafe_b64encode(data + self._check(subject, data)).decode().rstrip("=")

    def read_after(self, subject: str, token: str) -> tuple[int, str]:
        """Position and id in a token that ``make_after`` gave for this subject. Raises InvalidArgument for others."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            (position,) = _POSITION.unpack_from(raw)
            last = raw[_POSITION.size + _LENGTH.size : -_CHECK_BYTES].decode()
        except (binascii.Error, ValueError, struct.error):
            position, last = 0, ""
        if token != self.make_after(subject, position, last[:MAX_ID_BYTES]):
            raise InvalidArgument.of(
                [FieldViolation("page_token", "PAGE_TOKEN_INVALID", "not a token of this list's pages")]
            )
        return position, last

    def _check(self, subject: str, data: bytes) -> bytes:
        return blake2b(data + subject.encode(), key=self._key, digest_size=_CHECK_BYTES).digest()
