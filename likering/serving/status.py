"""Between likering's errors and google.rpc.Status, in both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from likering.errors import (
    DOMAIN,
    ERRORS_BY_REASON,
    DeadlineExceeded,
    FieldViolation,
    LikeringError,
    ShardUnavailable,
)

DETAILS_KEY = "grpc-status-details-bin"
MAX_VIOLATIONS = 32
"""More than these are left out: the details travel as metadata, of which callers accept 8 KiB."""
MAX_MESSAGE_BYTES = 1024
"""Of UTF-8; what is behind is left out. A message may name what the caller sent, and travels twice, once with three
characters for each byte."""


class Failing(Protocol):
    """The part of grpc.aio.ServicerContext that a call fails by."""

    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None: ...


def fail(context: Failing, error: LikeringError) -> None:
    """Makes a call that ends now end with the error.

    Not by context.abort: it raises inside the handler, and stop(grace) then returned before the handler's end.
    """
    status = to_status(error)
    context.set_code(error.code)
    context.set_details(status.message)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))


def to_status(error: LikeringError) -> status_pb2.Status:
    """The status of an error: always an ErrorInfo, and BadRequest, RetryInfo and RequestInfo where they apply."""
    status = status_pb2.Status(code=error.code.value[0], message=_bounded(error.message))
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.violations:
        _pack(
            status,
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description, reason=violation.reason
                    )
                    for violation in error.violations[:MAX_VIOLATIONS]
                ]
            ),
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if error.request_id:
        _pack(status, error_details_pb2.RequestInfo(request_id=error.request_id))
    return status


def from_status(status: status_pb2.Status) -> LikeringError | None:
    """The error that ``to_status`` was given, or None when the status is not one of ours."""
    info = _unpack(status, error_details_pb2.ErrorInfo())
    if info is None or info.domain != DOMAIN:
        return None
    error_class = ERRORS_BY_REASON.get(info.reason)
    if error_class is None:
        return None
    bad_request = _unpack(status, error_details_pb2.BadRequest())
    retry = _unpack(status, error_details_pb2.RetryInfo())
    request = _unpack(status, error_details_pb2.RequestInfo())
    error = error_class(
        status.message,
        metadata=info.metadata,
        violations=[
            FieldViolation(violation.field, violation.reason, violation.description)
            for violation in (bad_request.field_violations if bad_request else ())
        ],
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )
    error.request_id = request.request_id if request else ""
    return error


def from_rpc_error(error: grpc.RpcError) -> LikeringError:
    """The error behind a failed call of the synchronous or the asyncio client."""
    # Pairs, whichever client it was: a tuple of them, or the asyncio client's Metadata.
    metadata = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == DETAILS_KEY:
            ours = from_status(status_pb2.Status.FromString(value))
            if ours is not None:
                return ours
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded()
    if code is grpc.StatusCode.UNAVAILABLE:
        return ShardUnavailable("The service is not reachable")
    return LikeringError(f"{code.name}: {error.details()}")


def _bounded(message: str) -> str:
    data = message.encode()
    if len(data) <= MAX_MESSAGE_BYTES:
        return message
    return f"{data[:MAX_MESSAGE_BYTES].decode(errors='ignore')}…"


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _unpack(
    status: status_pb2.Status, detail: error_details_pb2.ErrorInfo
) -> error_details_pb2.ErrorInfo | None:
    for packed in status.details:
        if packed.Unpack(detail):
            return detail
    return None
