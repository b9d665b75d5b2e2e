"""Reads the commands that pages show with the programs' own definitions, without executing any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import typer.main
from pydantic_settings import BaseSettings

from comparison.__main__ import app as comparison
from likering.cli.main import app as likering
from router import settings as router
from shard_node import settings as node
from shard_node.replica import settings as replica

_TYPER: Final[Mapping[str, Any]] = {
    "likering": typer.main.get_command(likering),
    ".venv/bin/likering": typer.main.get_command(likering),
    "scripts/compare": typer.main.get_command(comparison),
}
_READ: Final[Mapping[str, Callable[[Sequence[str]], BaseSettings]]] = {
    router.PROGRAM: router.read,
    node.PROGRAM: node.read,
    replica.PROGRAM: replica.read,
}
_SETTINGS: Final = (router.RouterSettings, node.NodeSettings, replica.ReplicaSettings)
_PLACEHOLDER: Final = re.compile(r"[A-Z]+(:[A-Z]+)?")


def is_ours(words: Sequence[str]) -> bool:
    """Whether it is a command of a program whose options are known here."""
    return words[0] in _TYPER or words[0] in _READ


def read(words: Sequence[str], *, spoken_of: bool = False) -> None:
    """Reads a command as its program does. Placeholders such as SLOT stand for a 1, ``…`` for what is left out.

    ``spoken_of``: without arguments it is only the command's name. Raises what the program's own reading raises when it
    does not know a command or an option, or lacks one.
    """
    program, *given = words
    arguments = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in given]
    if program in _READ:
        if arguments != ["…"] and (arguments or not spoken_of):
            _READ[program](arguments)
        return
    command = _TYPER[program]
    name = program
    while arguments and (known := getattr(command, "commands", None)) and arguments[0] != "…":
        name, *arguments = arguments
        assert name in known, f"{' '.join(words)}: there is no {name}, but {', '.join(known)}"
        command = known[name]
    if arguments != ["…"] and (arguments or not spoken_of):
        command.make_context(name, arguments)


def options() -> frozenset[str]:
    """All options of all programs."""
    fields = (field for settings in _SETTINGS for field in settings.model_fields)
    return frozenset(("--help", *map(_flag, fields), *(o for c in _TYPER.values() for o in _options(c))))


def variables() -> frozenset[str]:
    """All variables of the environment that a program reads."""
    of_settings = (
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in _SETTINGS
        for field in settings.model_fields
    )
    return frozenset((*of_settings, *(v for c in _TYPER.values() for v in _variables(c))))


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _options(command: Any) -> Iterator[str]:
    for one in _all(command):
        for parameter in one.params:
            yield from (*parameter.opts, *parameter.secondary_opts)


def _variables(command: Any) -> Iterator[str]:
    for one in _all(command):
        yield from (parameter.envvar for parameter in one.params if isinstance(parameter.envvar, str))


def _all(command: Any) -> Iterator[Any]:
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from _all(below)
