"""Statuses of failed calls, as callers read them that have no client of ours."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from likering.serving.status import DETAILS_KEY


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The details of a status by the name of their type."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())[DETAILS_KEY])
    found: dict[str, Any] = {}
    for packed in status.details:
        detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        packed.Unpack(detail)
        found[type(detail).__name__] = detail
    return found
