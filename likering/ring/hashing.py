"""From a key to its slot: the low bits of xxh3_64, the same in every language."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

MAX_SLOT_COUNT = 16384


def check_slot_count(slot_count: int) -> None:
    """Raise ValueError unless ``slot_count`` is a power of two from 1 to 16384."""
    if not 1 <= slot_count <= MAX_SLOT_COUNT or slot_count & (slot_count - 1):
        raise ValueError(
            f"The number of slots must be a power of two from 1 to {MAX_SLOT_COUNT}, not {slot_count}"
        )


def slot_of(key: str, slot_count: int) -> int:
    """The slot of a key: ``xxh3_64(utf-8 bytes) mod slot_count``.

    ``slot_count`` is a power of two (``check_slot_count``), which is not checked again here: this runs once per
    operation. Raises UnicodeEncodeError for a key with an unpaired surrogate.
    """
    return xxh3_64_intdigest(key.encode()) & (slot_count - 1)
