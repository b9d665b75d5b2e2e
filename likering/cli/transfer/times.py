"""Times of likes in files: RFC 3339, or numbers since 1970 in a unit that the caller names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - written as UTC below, without a zone to carry
_MICROSECOND: Final = timedelta(microseconds=1)
_NUMBER: Final = frozenset("0123456789.-+")


class TimeUnit(StrEnum):
    """Of times that are numbers."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"


MICROS: Final = {TimeUnit.SECONDS: 1_000_000, TimeUnit.MILLISECONDS: 1000, TimeUnit.MICROSECONDS: 1}


def parser(unit: TimeUnit | None) -> Callable[[str], int]:
    """What reads a time as µs since 1970; empty: 0. It raises ValueError with a sentence.

    A time without a zone is UTC. Nothing is guessed of a number: without ``unit`` it is refused.
    """
    factor = None if unit is None else MICROS[unit]

    def parse(text: str) -> int:
        if not text:
            return 0
        # Not 2026-11-23, but 20261123, which would be read as a date, is a number.
        if text.isdigit() or (text[0] in "-+." and _NUMBER.issuperset(text)) or _is_decimal(text):
            if factor is None:
                raise ValueError(f"the time {text!r} is a number: say --time-unit")
            micros = _number(text, factor)
        else:
            micros = _rfc3339(text)
        if micros <= 0:
            raise ValueError("the time of a like is after 1970")
        return micros

    return parse


def text_of(micros: int) -> str:
    """A time in µs since 1970 as RFC 3339, in UTC, with all its digits."""
    return (_NAIVE_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds") + "Z"


def _is_decimal(text: str) -> bool:
    return text.count(".") == 1 and text.replace(".", "").isdigit()


def _number(text: str, factor: int) -> int:
    try:
        return int(text) * factor
    except ValueError:
        pass
    try:
        return int(Decimal(text) * factor)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time") from None


def _rfc3339(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time as 2026-11-23T17:05:29Z") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // _MICROSECOND
