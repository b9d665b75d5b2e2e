"""When an open-loop generator means to send each call, whatever the service does. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def steady(rate: float, seconds: float, *, part: int = 0, parts: int = 1) -> Iterator[float]:
    """Times in seconds from the start, ``rate`` a second, evenly spaced.

    Of several processes that share a rate, each takes its part of the very same times.
    """
    number = part
    while (time := number / rate) < seconds:
        yield time
        number += parts


def poisson(rate: float, seconds: float, random: Random, *, parts: int = 1) -> Iterator[float]:
    """Times of independent arrivals, ``rate`` a second over all ``parts`` together: bursts as real callers make."""
    time = random.expovariate(rate / parts)
    while time < seconds:
        yield time
        time += random.expovariate(rate / parts)
