"""The metric of how far the users' side is behind, looked at when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class UserFeedLag(Collector):
    """``likering_user_feed_lag_seconds`` by destination, registered for as long as the ``with`` block lasts."""

    def __init__(
        self, lags: Callable[[], Mapping[str, float]], registry: CollectorRegistry = REGISTRY
    ) -> None:
        """``lags``: seconds by destination."""
        self._lags = lags
        self._registry = registry

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "likering_user_feed_lag_seconds",
            "Age of the oldest change of this node's posts that a node has not accepted yet for its users",
            labels=["destination"],
        )
        for destination, seconds in self._lags().items():
            family.add_metric([destination], seconds)
        yield family

    def __enter__(self) -> UserFeedLag:
        self._registry.register(self)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._registry.unregister(self)
