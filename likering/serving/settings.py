"""Reads the settings of a process: flags over environment over a TOML file over defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from likering.postgres.dsn import check_dsn
from likering.security.passwords import READABLE, has_password

S = TypeVar("S", bound=BaseSettings)


def _check_host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{value!r} is not host:port")
    return value


HostPort = Annotated[str, AfterValidator(_check_host_port)]
"""A setting that is an address with a port; port 0 takes a free one."""


def _check_dsn_within(value: SecretStr) -> SecretStr:
    check_dsn(value.get_secret_value())
    return value


def _check_cache_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    try:
        usable = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("this is not the URL of a Valkey or Redis (redis://host:port, rediss://host:port)")
    return value


Dsn = Annotated[SecretStr, AfterValidator(_check_dsn_within)]
"""A setting that is a Postgres connection string."""

CacheUrl = Annotated[SecretStr, AfterValidator(_check_cache_url)]
"""A setting that is the URL of a Valkey or Redis."""

EXIT_CONFIGURATION = 2
"""Exit code of a process that cannot start for a mistake in its configuration."""


def read_settings(settings_class: type[S], arguments: Sequence[str], *, program: str, prefix: str) -> S:
    """The settings of ``program``: --some-name, then {prefix}SOME_NAME, then some_name in the --config file.

    ``settings_class`` has a field ``config: Path | None``. A mistake ends the process: one sentence on stderr and
    exit code 2.
    """
    try:
        flags: CliSettingsSource[S] = CliSettingsSource(
            settings_class,
            cli_parse_args=list(arguments),
            cli_prog_name=program,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_exit_on_error=False,
            cli_hide_none_type=True,
            cli_avoid_json=True,
        )
        for name, value in flags().items():
            if isinstance(value, str) and has_password(value):
                variable = f"{prefix}{name.upper()}"
                refuse(program, f"{_flag(name, prefix)}: {READABLE}: use {variable} or the --config file")
        sources: list[PydanticBaseSettingsSource] = [
            flags,
            EnvSettingsSource(settings_class, env_prefix=prefix),
        ]
        config = next((path for source in sources if (path := source().get("config"))), None)
        if config:
            if not Path(str(config)).is_file():
                refuse(program, f"the configuration file {config} does not exist")
            sources.append(_toml(settings_class, Path(str(config))))
        merged: dict[str, object] = {}
        for source in reversed(sources):
            merged.update({name: value for name, value in source().items() if value is not None})
        return settings_class.model_validate(merged)
    except ValidationError as error:
        refuse(program, "; ".join(_sentence(prefix, dict(problem)) for problem in error.errors()))
    except (SettingsError, ValueError) as error:
        refuse(program, str(error))


def refuse(program: str, sentence: str) -> NoReturn:
    """Ends the process for a mistake in its configuration."""
    print(f"{program}: {' '.join(sentence.split())}", file=sys.stderr)  # noqa: T201 - for the one who started it
    raise SystemExit(EXIT_CONFIGURATION)


def _toml(settings_class: type[S], path: Path) -> TomlConfigSettingsSource:
    try:
        return TomlConfigSettingsSource(settings_class, toml_file=path)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def _flag(name: str, prefix: str) -> str:
    return f"--{name.replace('_', '-')} ({prefix}{name.upper()})"


def _sentence(prefix: str, problem: dict[str, object]) -> str:
    location = problem["loc"]
    assert isinstance(location, tuple)
    name = str(location[0]) if location else ""
    flag = _flag(name, prefix)
    if problem["type"] == "missing":
        return f"{flag} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{name} in the configuration file is not a setting"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{flag}: {message[:1].lower()}{message[1:]}" if name else message
