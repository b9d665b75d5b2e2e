"""The programs' own sources as tests read them: the sentences in them that tell people what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.parts.pages import ROOT

_PROGRAMS = ("likering", "router", "shard_node", "comparison")
_IN_BACKTICKS = re.compile(r"`(likering [^`\n]+)`")
_ALONE = re.compile(r"likering ([a-z-]+)( \S+)*")
_GROUPS = frozenset(("ring", "node", "cluster", "counts", "posts", "users", "dev"))
"""What may follow on the program's name in a string that is a command, and not a name of something."""


def sources() -> list[Path]:
    """All files of Python that the project consists of, but for generated ones."""
    return [
        path
        for program in _PROGRAMS
        for path in sorted((ROOT / program).rglob("*.py"))
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
    ]


def commands_told(path: Path) -> list[str]:
    """The commands that a file's strings name: in backticks, or a string that is nothing else."""
    found = []
    for text in _strings(ast.parse(path.read_text())):
        found += _IN_BACKTICKS.findall(text)
        if (alone := _ALONE.fullmatch(text)) and alone[1] in _GROUPS:
            found.append(text)
    return found


def _strings(tree: ast.AST) -> Iterator[str]:
    """All strings of a program, with something in the place of what is put in at run time."""
    within: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            within.update(node.values)
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _put_in(part) for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in within:
            yield node.value


def _put_in(part: ast.AST) -> str:
    return "localhost:1" if "address" in ast.unparse(part) else "1"
