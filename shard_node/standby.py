"""Whether the node's Postgres has a synchronous standby, for a node that is to take writes only while it has one.

A commit that waits for no standby is lost with its server. One that waits for a standby which is not there has an
outcome that nobody knows. So neither is begun: such a node refuses writes, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from shard_node.store import Connection, execute

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 0.4
"""Seconds between two looks: for so long a node may write on after its standby has gone. One comes before each beat."""


class Lack(StrEnum):
    """Why there is no synchronous standby."""

    NOT_ASKED_FOR = "synchronous_standby_names is empty, so commits wait for no standby"
    AWAY = "no standby of synchronous_standby_names is streaming, so commits would wait for one to come"


class StandbyWatch:
    """Looks after the standby. Before the first look there is none, and no lack either."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._clock = clock
        self._next_look = 0.0
        self._present = Gauge(
            "likering_node_synchronous_standby",
            "1 while this node's Postgres has the synchronous standby that it needs to take writes, else 0.",
            registry=registry,
        )
        self.lack: Lack | None = None
        """Why this node takes no writes; None: it does."""

    def __repr__(self) -> str:
        return f"<StandbyWatch {self.lack.name if self.lack else 'no lack'}>"

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._clock() >= self._next_look

    async def look(self, connection: Connection) -> None:
        """Reads what the primary knows of its standbys; commits nothing, so it never waits for one."""
        row = await (await execute(connection, "synchronous_standby")).fetchone()
        assert row is not None
        named, streaming = row
        # A role that may not see who streams goes by the names alone.
        lack = Lack.NOT_ASKED_FOR if not named else Lack.AWAY if streaming is False else None
        if lack is not self.lack:
            if lack is None:
                log.info("takes writes again: there is a synchronous standby")
            else:
                log.error("takes no writes: there is no synchronous standby", reason=lack.value)
        self.lack = lack
        self._present.set(lack is None)
        self._next_look = self._clock() + LOOK_INTERVAL
