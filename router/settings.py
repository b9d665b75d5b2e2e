"""What can be set about a router, by flag, environment (LIKERING_ROUTER_…) or TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from likering.security.setup import SecuritySettings
from likering.security.tokens import ALGORITHMS
from likering.serving.settings import Dsn, HostPort, read_settings

PROGRAM = "likering-router"
ENVIRONMENT_PREFIX = "LIKERING_ROUTER_"
EXIT_NO_TOPOLOGY = 4
"""Exit code of a router that found no topology in time."""


class RouterSettings(SecuritySettings):
    """The stateless front of a likering cluster. Times are in seconds."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENVIRONMENT_PREFIX)

    config: Path | None = Field(None, description="TOML file with any of these settings")
    listen: HostPort = Field("127.0.0.1:50051", description="host:port to serve on; port 0 takes a free one")
    admin_listen: HostPort | None = Field(
        None, description="host:port to serve operators on (likering ring, likering node); absent: not at all"
    )
    health_listen: HostPort | None = Field(
        None, description="host:port to serve health alone on, without TLS: for probes that know none"
    )
    metrics_listen: HostPort | None = Field(
        None,
        description="host:port to serve metrics for Prometheus on, of several workers the first one; the others on the"
        " ports after it; default: nowhere",
    )
    tracing: bool = Field(
        False, description="export OpenTelemetry traces, as the OTEL_ variables say (extra: otel)"
    )
    topology: Dsn = Field(description="connection string of the topology database")
    seeds: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="host:port,… of nodes to ask for the topology while its database is away"
    )
    token_listen: HostPort | None = Field(
        None,
        description="host:port to serve callers on that have tokens and no certificates; --listen asks for both or"
        " for a certificate",
    )
    token_keys: Path | None = Field(
        None, description="JWKS file with the public keys of tokens; absent: no tokens are taken"
    )
    token_audience: str | None = Field(None, description="the aud that tokens of callers name")
    token_admin_audience: str | None = Field(
        None, description="the aud that tokens of operators name; absent: operators have certificates"
    )
    token_issuer: str | None = Field(None, description="the iss that tokens name; absent: any")
    token_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ("ES256", "EdDSA", "RS256"), description=f"allowed signatures, of {', '.join(ALGORITHMS)}"
    )
    token_roles_claim: str = Field("roles", description="the claim of a token that lists its roles")
    token_binds_user: bool = Field(
        False, description="a token writes only likes of the user that is its subject"
    )
    caller_rate: float | None = Field(
        None,
        gt=0,
        description="operations a second that each caller is served by each worker, a batch being as many as it has"
        " items, in bursts of two seconds' worth; absent: any number. Callers are told apart by their credentials",
    )
    workers: int = Field(1, ge=1, le=256, description="processes that share the port")
    worker_index: int | None = Field(
        None, ge=0, description="set by the parent of several workers, not by you"
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    slow_call: float = Field(1.0, gt=0, description="a call that takes longer is logged")
    default_deadline: float = Field(10.0, gt=0, description="for calls that come without one")
    start_timeout: float = Field(30.0, gt=0, description="how long to wait for a first topology")
    drain_delay: float = Field(0.5, ge=0, description="between NOT_SERVING and taking no more calls")
    drain_grace: float = Field(15.0, gt=0, description="for calls in progress at the end")
    max_connection_age: float = Field(300.0, gt=0, description="callers connect anew after this, ±10 %")
    max_concurrent_streams: int = Field(1536, ge=1, description="calls in progress per connection")

    batch_operations: int = Field(1500, ge=1, le=3000, description="most operations of one batch")
    batches_in_flight: int = Field(2, ge=1, le=16, description="per node and kind of traffic")
    queued_operations: int = Field(150_000, ge=1, description="most that wait per node and kind of traffic")

    @field_validator("seeds", "token_algorithms", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("token_algorithms")
    @classmethod
    def _allowed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= set(ALGORITHMS):
            raise ValueError(f"these are allowed: {', '.join(ALGORITHMS)}")
        return value


def read(arguments: Sequence[str]) -> RouterSettings:
    """The settings of this process; a mistake ends it with exit code 2."""
    return read_settings(RouterSettings, arguments, program=PROGRAM, prefix=ENVIRONMENT_PREFIX)
