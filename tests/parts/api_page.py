"""The pages of calls as tests read them: examples, each with what it was answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from likering.serving.status import from_rpc_error

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_SERVICE = re.compile(r"^## (?P<name>likering\.[\w.]+)\n(?P<body>(?:(?!^## ).*\n)*)", re.MULTILINE)
_EXAMPLE = re.compile(
    r"^### (?P<method>\w+)\n(?:(?!^#).*\n)*?```json\n(?P<request>(?:.*\n)*?)```\n+```json\n(?P<answer>(?:.*\n)*?)```",
    re.MULTILINE,
)
_TOLD = re.compile(r"^### (\w+)\n((?:(?!^```|^#).*\n)*)", re.MULTILINE)
_COMMENTED = re.compile(r"((?:^  //.*\n)+)  rpc (\w+)\(", re.MULTILINE)
_OF_THE_MOMENT = frozenset(
    (
        *("as_of_time", "viewer_as_of_time", "like_time", "next_page_token", "cursor", "slot_count"),
        *("address", "cluster_id", "apply_time", "purge_time", "state_since", "since", "time", "word_time"),
        *(
            "attempt",
            "bytes",
            "expected_pause",
            "expected_seconds",
            "seconds",
            "write_p99",
            "writes_per_second",
        ),
    )
)
"""Fields whose value is another one each time: only that they are there is compared."""
_ESTIMATES = frozenset(("rows",))
"""Fields that come from the database's own statistics, and are absent until it has looked at the tables."""
_SHOWN_BY_ITS_LAST = frozenset(("VerifyCounts", "RepairCounts", "PurgePost", "PurgeUser"))


class Example(NamedTuple):
    """A call, and its answer; of a stream one of its answers, the last one where it ends with the outcome."""

    service: str
    method: str
    request: Any
    answer: Any


def examples(page: str) -> list[Example]:
    """All of a page, in its order."""
    return [
        Example(service["name"], found["method"], json.loads(found["request"]), json.loads(found["answer"]))
        for service in _SERVICE.finditer((DOCS / page).read_text())
        for found in _EXAMPLE.finditer(service["body"])
    ]


def descriptions(page: str) -> dict[str, list[str]]:
    """Call → the words that a page has above its example."""
    return {method: told.split() for method, told in _TOLD.findall((DOCS / page).read_text())}


def comments(*protos: str) -> dict[str, list[str]]:
    """Call → the words of the comment above it, of these files of protos/likering."""
    text = "\n".join((ROOT / "protos" / "likering" / proto).read_text() for proto in protos)
    return {method: comment.replace("//", " ").split() for comment, method in _COMMENTED.findall(text)}


def ask(channel: grpc.Channel, method: MethodDescriptor, request: Any) -> Any:
    """What a call is answered, as a page shows it."""
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    message = ParseDict(request, request_type())
    try:
        if not method.server_streaming:
            call = channel.unary_unary(path, request_type.SerializeToString, response_type.FromString)
            return _shown(call(message, timeout=20))
        stream = channel.unary_stream(path, request_type.SerializeToString, response_type.FromString)(
            message, timeout=20
        )
        try:
            if method.name in _SHOWN_BY_ITS_LAST:
                return _shown(list(stream)[-1])
            return next(shown for response in stream if (shown := _shown(response)))
        finally:
            stream.cancel()
    except grpc.RpcError as failed:
        error = from_rpc_error(failed)
        return {"error": {"code": error.code.name, "reason": error.reason, "message": error.message}}


def shape(value: Any) -> Any:
    """The JSON without what is of the moment, and without what the database only estimates."""
    if isinstance(value, dict):
        told = ((key, item) for key, item in value.items() if key not in _ESTIMATES)
        return {key: "…" if key in _OF_THE_MOMENT else shape(item) for key, item in told}
    return [shape(item) for item in value] if isinstance(value, list) else value


def _shown(message: Message) -> Any:
    """Fields by their names in the protos, defaults left out."""
    return MessageToDict(message, preserving_proto_field_name=True)
