"""Ids as the tables keep them: bytes, fewer than the text where that is a number or a UUID, and never ambiguous.

- A decimal number of 1 to 2^64 - 1, without a sign or leading zeros: big-endian, 1 to 8 bytes, the first not zero.
- A UUID in lower case with its hyphens, unless its first byte is zero: its 16 bytes.
- Anything else: a zero byte, then the text as UTF-8.

So the first byte says whether it is text, and otherwise the length says which of the other two it is. Nothing packed is
longer than 16 bytes unless it begins with a zero byte: 17 bytes of 0xff are behind every id.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT: Final = b"\0"
_MOST_DIGITS: Final = 20
_LARGEST: Final = 2**64 - 1
_LONGEST_NUMBER: Final = 8
_UUID_LENGTH: Final = 36
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def pack(text: str) -> bytes:
    """The bytes of an id of 1 to 128 bytes of UTF-8; ``unpack`` gives exactly the same text again."""
    if text.isdecimal() and len(text) <= _MOST_DIGITS and text.isascii() and text[0] != "0":
        number = int(text)
        if number <= _LARGEST:
            return number.to_bytes((number.bit_length() + 7) // 8)
    elif len(text) == _UUID_LENGTH and _UUID.fullmatch(text) and not text.startswith("00"):
        return bytes.fromhex(text.replace("-", ""))
    return _TEXT + text.encode()


def unpack(packed: bytes) -> str:
    """The id that ``pack`` was given."""
    if packed[0] == 0:
        return packed[1:].decode()
    if len(packed) <= _LONGEST_NUMBER:
        return str(int.from_bytes(packed))
    digits = packed.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
