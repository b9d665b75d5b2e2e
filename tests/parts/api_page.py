"""docs/api.md as a test reads it: which calls it tells of, and the examples with what each was answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
_EXAMPLE = re.compile(
    r"^### (?P<method>\w+)\n(?:(?!^#).*\n)*?```json\n(?P<request>(?:.*\n)*?)```\n+```json\n(?P<answer>(?:.*\n)*?)```",
    re.MULTILINE,
)
_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \|", re.MULTILINE)
_OF_THE_MOMENT = frozenset(("like_time", "as_of_time", "next_page_token", "cursor", "slot_count"))
"""Fields whose value is another one each time: only that they are there is compared."""


class Example(NamedTuple):
    """A call of LikeService, and its answer; of a stream, its first answer that says something."""

    method: str
    request: Any
    answer: Any


def examples() -> list[Example]:
    """All of them, in the order of the page."""
    return [
        Example(found["method"], json.loads(found["request"]), json.loads(found["answer"]))
        for found in _EXAMPLE.finditer(PAGE.read_text())
    ]


def listed() -> set[tuple[str, str]]:
    """Service and method of the page's table of operators' calls."""
    return {(found[1], found[2]) for found in _ROW.finditer(PAGE.read_text())}


def shape(value: Any) -> Any:
    """The JSON without what is of the moment."""
    if isinstance(value, dict):
        return {key: "…" if key in _OF_THE_MOMENT else shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else value


def shown(message: Message) -> Any:
    """A message as the page shows it: fields by their names in the protos, defaults left out."""
    return MessageToDict(message, preserving_proto_field_name=True)


def says_something(method: MethodDescriptor, message: Message) -> bool:
    """Whether a response of a stream is worth showing."""
    return not method.server_streaming or bool(shown(message))
