"""What can be set about a shard node, by flag, environment (LIKERING_NODE_…) or TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from likering.ring.hashing import MAX_SLOT_COUNT
from likering.ring.topology import MAX_WEIGHT
from likering.security.setup import SecuritySettings
from likering.serving.settings import CacheUrl, Dsn, HostPort, read_settings

PROGRAM = "likering-node"
ENVIRONMENT_PREFIX = "LIKERING_NODE_"


class NodeSettings(SecuritySettings):
    """One shard node of a likering cluster. Times are in seconds."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENVIRONMENT_PREFIX)

    config: Path | None = Field(None, description="TOML file with any of these settings")
    name: str = Field(
        min_length=1, max_length=63, description="the node's name in the topology; stays the same"
    )
    listen: HostPort = Field(description="host:port to serve on; port 0 takes a free one")
    advertise: HostPort | None = Field(
        None, description="host:port that routers call; default: the one of --listen"
    )
    health_listen: HostPort | None = Field(
        None, description="host:port to serve health alone on, without TLS: for probes that know none"
    )
    metrics_listen: HostPort | None = Field(
        None, description="host:port to serve metrics for Prometheus on; default: nowhere"
    )
    metrics_slots: int = Field(
        20,
        ge=0,
        le=MAX_SLOT_COUNT,
        description="most slots that metrics tell apart, those with the most writes; 16384: all",
    )
    tracing: bool = Field(
        False, description="export OpenTelemetry traces, as the OTEL_ variables say (extra: otel)"
    )
    weight: int = Field(1, ge=1, le=MAX_WEIGHT, description="the node's share of the slots")
    postgres: Dsn = Field(description="connection string of the node's own database")
    topology: Dsn = Field(description="connection string of the topology database")
    cache: CacheUrl = Field(description="URL of the node's Valkey or Redis")
    replication: Dsn | None = Field(
        None,
        description="connection string by which other nodes and their Postgres reach this node's database;"
        " default: the one of --postgres",
    )

    auto_rebalance: bool = Field(
        False, description="take over its share of the slots when it joins, without waiting for a plan"
    )

    require_synchronous_standby: bool = Field(
        False,
        description="refuse writes while the node's Postgres has no synchronous standby that streams; reads go on",
    )

    user_side: bool = Field(
        True,
        description="tell the owners of users what they like, and keep what is told here, for ListLikedPosts",
    )

    tombstone_retention: float = Field(
        7 * 86_400.0,
        ge=0,
        description="for how long unlikes are remembered at least, against likes that come late and for consumers of"
        " the change feed that were away; 0: for good",
    )

    verify_interval: float = Field(
        3600.0,
        gt=0,
        description="seconds until the counts of a slot are compared with its likes again, at the soonest; how fast"
        " that goes, and whether, is set by likering ring limits --verify-rows-per-second",
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    slow_call: float = Field(1.0, gt=0, description="a call that takes longer is logged")
    start_timeout: float = Field(30.0, gt=0, description="how long to wait for the databases at the start")
    drain_delay: float = Field(0.2, ge=0, description="between NOT_SERVING and taking no more calls")
    drain_grace: float = Field(10.0, gt=0, description="for calls in progress at the end")

    queued_operations: int = Field(50_000, ge=1, description="most writes that wait for their commit")
    read_connections: int = Field(4, ge=1, le=64, description="connections for reads")


def read(arguments: Sequence[str]) -> NodeSettings:
    """The settings of this process; a mistake ends it with exit code 2."""
    return read_settings(NodeSettings, arguments, program=PROGRAM, prefix=ENVIRONMENT_PREFIX)
