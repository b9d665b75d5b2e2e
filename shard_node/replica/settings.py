"""What can be set about a replica, by flag, environment (LIKERING_REPLICA_…) or TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from likering.serving.settings import HostPort, read_settings

PROGRAM = "likering-replica"
ENVIRONMENT_PREFIX = "LIKERING_REPLICA_"


class ReplicaSettings(BaseSettings):
    """A replica of a shard node: answers stale reads while the node is gone. Times are in seconds."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENVIRONMENT_PREFIX)

    config: Path | None = Field(None, description="TOML file with any of these settings")
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
    tracing: bool = Field(
        False, description="export OpenTelemetry traces, as the OTEL_ variables say (extra: otel)"
    )
    postgres: SecretStr = Field(
        description="connection string of the streaming replica of the node's database, and of no other host"
    )
    topology: SecretStr = Field(description="connection string of the topology database")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    slow_call: float = Field(1.0, gt=0, description="a call that takes longer is logged")
    drain_delay: float = Field(0.2, ge=0, description="between NOT_SERVING and taking no more calls")
    drain_grace: float = Field(10.0, gt=0, description="for calls in progress at the end")
    read_connections: int = Field(4, ge=1, le=64, description="connections for reads")


def read(arguments: Sequence[str]) -> ReplicaSettings:
    """The settings of this process; a mistake ends it with exit code 2."""
    return read_settings(ReplicaSettings, arguments, program=PROGRAM, prefix=ENVIRONMENT_PREFIX)
