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

_POSITION: Final = struct.Struct(">q")
_CHECK_BYTES: Final = 10


class SealedTokens:
    """Tokens that carry bytes. All servers that use the same key take each other's."""

    def __init__(self, key: str, call: str) -> None:
        self._key = blake2b(f"{call} {key}".encode()).digest()

    def seal(self, subject: str, data: bytes) -> str:
        """The token for what belongs to this subject."""
        return base64.urlsafe_b64encode(data + self._check(subject, data)).decode().rstrip("=")

    def open(self, subject: str, token: str) -> bytes | None:
        """What ``seal`` was given for this subject; None for any other token."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        data = raw[:-_CHECK_BYTES]
        # Compared as text, too: base64 has spare bits, and no other spelling is ours.
        return data if token == self.seal(subject, data) else None

    def _check(self, subject: str, data: bytes) -> bytes:
        # With the length, or a part of the subject could pass for the end of the data.
        bound = len(data).to_bytes(4, "big") + data + subject.encode()
        return blake2b(bound, key=self._key, digest_size=_CHECK_BYTES).digest()


class PageTokens:
    """The tokens of one call, whose positions are so many numbers. As ``SealedTokens``."""

    def __init__(self, key: str, call: str, *, numbers: int = 1) -> None:
        self._tokens = SealedTokens(key, call)
        self._position = struct.Struct(f">{numbers}q")

    def make(self, subject: str, *position: int) -> str:
        """The token for a place in the list of this subject."""
        return self._tokens.seal(subject, self._position.pack(*position))

    def read(self, subject: str, token: str) -> tuple[int, ...]:
        """The position in a token that ``make`` gave for this subject. Raises InvalidArgument for any other."""
        data = self._tokens.open(subject, token)
        if data is None or len(data) != self._position.size:
            raise _invalid()
        return self._position.unpack(data)

    def make_after(self, subject: str, position: int, last: str) -> str:
        """The token for a place in a list in which entries may share a position: after the entry of this id."""
        return self._tokens.seal(subject, _POSITION.pack(position) + last.encode())

    def read_after(self, subject: str, token: str) -> tuple[int, str]:
        """Position and id in a token that ``make_after`` gave for this subject. Raises InvalidArgument for others."""
        data = self._tokens.open(subject, token)
        if data is None or len(data) <= _POSITION.size:
            raise _invalid()
        (position,) = _POSITION.unpack_from(data)
        return position, data[_POSITION.size :].decode()


def _invalid() -> InvalidArgument:
    return InvalidArgument.of(
        [FieldViolation("page_token", "PAGE_TOKEN_INVALID", "not a token of this list's pages")]
    )
