"""What grpcurl does: asks a server for the description of a service, and makes calls by it from JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

_COMMAND = re.compile(r"^\$ grpcurl ((?:.*\\\n)*.*)$", re.MULTILINE)


class GrpcurlCommand(NamedTuple):
    """A ``grpcurl`` of a page: ``service/method`` with its request, or ``describe`` and what is described."""

    target: str
    request: Any


def grpcurl_commands(page: Path) -> list[GrpcurlCommand]:
    """Those of a page, in their order."""
    commands = []
    for found in _COMMAND.finditer(page.read_text()):
        words = shlex.split(found[1])
        request = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        commands.append(GrpcurlCommand(words[-1], request))
    return commands


class Reflected:
    """The services of a server, known from the server alone."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()

    def method(self, service: str, name: str) -> MethodDescriptor:
        """A method, as the server describes it."""
        if service not in self._known:
            self._learn(service)
        method: MethodDescriptor = self._pool.FindServiceByName(service).methods_by_name[name]
        return method

    def methods(self, service: str) -> list[str]:
        """What ``describe`` lists."""
        self._learn(service)
        return list(self._pool.FindServiceByName(service).methods_by_name)

    def call(self, target: str, request: Any) -> Any:
        """The response of ``service/method``, as JSON."""
        method = self.method(*target.split("/"))
        sent = ParseDict(request, message_factory.GetMessageClass(method.input_type)())
        received = message_factory.GetMessageClass(method.output_type)
        call: Any = self._channel.unary_unary(f"/{target}")
        return MessageToDict(
            received.FromString(call(sent.SerializeToString(), timeout=20)), preserving_proto_field_name=True
        )

    def _learn(self, service: str) -> None:
        stub: Any = ServerReflectionStub(self._channel)
        asking = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
        (answer,) = stub.ServerReflectionInfo(iter([asking]))
        for data in reversed(answer.file_descriptor_response.file_descriptor_proto):
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name not in self._known:
                self._pool.Add(file)
            self._known.add(file.name)
        self._known.add(service)
