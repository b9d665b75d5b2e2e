"""The project's pages as tests read them: links, names of files, commands and sums."""

from __future__ import annotations

import operator
import os
import re
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PROMPT = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
_SUBSTITUTED = re.compile(r"\$\(([^()]*)\)")
_ENDS_A_COMMAND = frozenset(("|", "||", "&&", "&", ";", ">", "<"))
_SUM = re.compile(r"^(?:.*?\S {2,})?(?P<terms>\S.*?) += (?P<result>\S.*)$")
_NUMBER = re.compile(r"(?P<digits>\d[\d,]*(?:\.(?P<decimals>\d+))?) ?(?P<prefix>(?:[µkMGT](?!\w\w))?)")
_OPERATIONS = {"×": operator.mul, "÷": operator.truediv, "+": operator.add}
_PREFIXES = {"": 1.0, "µ": 1e-6, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class Sum(NamedTuple):
    """A line such as ``770 M ÷ 86,400 = 8.9 k``, computed from the left: what it comes to, and what the page says."""

    line: str
    value: float
    said: float
    rounding: float
    """Half of the last digit that the page gives."""


class Page:
    """One page in Markdown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.read_text()

    def __repr__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def _prose(self) -> str:
        return _FENCED.sub("", self._text)

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What a link to a heading may name, as GitHub makes it."""
        kept = (re.sub(r"[^\w\- ]", "", heading).lower() for heading in _HEADING.findall(self._prose))
        return frozenset(heading.replace(" ", "-") for heading in kept)

    @property
    def links(self) -> list[str]:
        """Targets of the links to other places in the project."""
        return [target for target in _LINK.findall(self._prose) if "://" not in target]

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language."""
        return [found["body"] for found in _FENCED.finditer(self._text) if found["language"] == language]

    @property
    def spans(self) -> list[str]:
        """What stands in backticks within the prose; one that goes over two lines has a space there."""
        paragraphs = self._prose.split("\n\n")
        return [" ".join(span.split()) for paragraph in paragraphs for span in _SPAN.findall(paragraph)]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command that the reader is shown to type."""
        found: list[list[str]] = []
        for block in self.blocks("console"):
            for line in _PROMPT.findall(block):
                lines = _SUBSTITUTED.findall(line) or [line]
                found += [words for line in lines if (words := words_of(line))]
        return found

    @property
    def sums(self) -> list[Sum]:
        """The lines of arithmetic of the blocks marked as ``text``."""
        lines = (line for block in self.blocks("text") for line in block.splitlines())
        return [_sum(line, found) for line in lines if (found := _SUM.match(line))]

    def resolve(self, target: str) -> tuple[Path, str]:
        """The file, or directory, and the heading that a link of this page leads to."""
        file, _, anchor = target.partition("#")
        return (self.path.parent / file).resolve() if file else self.path, anchor


def pages() -> list[Page]:
    """All pages, README.md first."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Page(path) for path in paths]


def words_of(command: str) -> list[str]:
    """The words of one command: without a comment, and up to where another one begins."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    ends = [position for position, word in enumerate(words) if word in _ENDS_A_COMMAND]
    return words[: min(ends, default=len(words))]


def files() -> Iterator[str]:
    """The project's files, relative to its root."""
    for directory, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not name.startswith((".", "__")) and name != "node_modules"]
        for name in names:
            yield str((Path(directory) / name).relative_to(ROOT))


def _sum(line: str, found: re.Match[str]) -> Sum:
    terms = found["terms"]
    numbers = [_value(number) for number in _NUMBER.finditer(terms)]
    signs = re.findall("[×÷+]", terms)
    assert len(signs) == len(numbers) - 1, f"not a sum or product: {line}"
    value = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        value = _OPERATIONS[sign](value, number)
    result = _NUMBER.match(found["result"])
    assert result is not None, f"no result: {line}"
    last_digit = 10.0 ** -len(result["decimals"] or "") * _PREFIXES[result["prefix"]]
    return Sum(line.strip(), value, _value(result), last_digit / 2)


def _value(number: re.Match[str]) -> float:
    return float(number["digits"].replace(",", "")) * _PREFIXES[number["prefix"]]
