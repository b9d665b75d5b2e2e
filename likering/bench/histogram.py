"""Latencies: recorded cheaply while the load runs, kept and merged as HDR histograms afterwards.

All values are whole microseconds, from 1 to ten minutes, with three significant digits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

HIGHEST_US = 600_000_000
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)


def quantised(latency_us: int) -> int:
    """The value to three significant digits, so that a long run keeps a bounded number of different values."""
    shift = latency_us.bit_length() - 11
    return latency_us if shift <= 0 else latency_us >> shift << shift


class Histogram:
    """A distribution of latencies."""

    def __init__(self, inner: HdrHistogram | None = None) -> None:
        self._inner = inner if inner is not None else HdrHistogram(1, HIGHEST_US, 3)

    @classmethod
    def of(cls, counts: Iterable[Counter[int]]) -> Histogram:
        """The histogram of counted values."""
        histogram = cls()
        for counter in counts:
            for value, count in counter.items():
                histogram._inner.record_value(min(max(value, 1), HIGHEST_US), count)
        return histogram

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """The opposite of ``encode``."""
        return cls(HdrHistogram.decode(text.encode()))

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """One histogram of everything that the given ones hold."""
        result = cls()
        for histogram in histograms:
            result._inner.add(histogram._inner)
        return result

    def encode(self) -> str:
        """HdrHistogram's own portable text, readable by its implementations in other languages."""
        encoded: bytes = self._inner.encode()
        return encoded.decode()

    @property
    def count(self) -> int:
        """Number of recorded values."""
        return int(self._inner.get_total_count())

    @property
    def maximum(self) -> int:
        """The largest value in µs, 0 when empty."""
        return int(self._inner.get_max_value()) if self.count else 0

    @property
    def mean(self) -> float:
        """Mean in µs, 0 when empty."""
        return float(self._inner.get_mean_value()) if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """The value in µs that ``percent`` of all are at or below; 0 when empty."""
        return int(self._inner.get_value_at_percentile(percent)) if self.count else 0

    def __repr__(self) -> str:
        return f"<Histogram {self.count} values, p50 {self.percentile(50)} µs, p99 {self.percentile(99)} µs>"
