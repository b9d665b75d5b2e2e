"""How figures look in tables."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count(number: int) -> str:
    """1,234; a question mark for a negative one, which stands for unknown."""
    return f"{number:,}" if number >= 0 else "?"


def size(number: int) -> str:
    """Bytes, in the unit that leaves up to four digits."""
    if number < 0:
        return "?"
    power = min(max(number.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{number / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """From milliseconds to hours; a question mark for a negative one, which stands for unknown."""
    if seconds < 0:
        return "?"
    if seconds == 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def compact(value: float) -> str:
    """12.3 M: three digits, and the unit that they are of."""
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.3g} T"
