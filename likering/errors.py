"""Every way a call can fail: one class per reason of likering.v1.ErrorReason.

Servers raise these; the outermost handler turns them into a google.rpc.Status (``likering.serving.status``), and the
clients turn that back into the same class. A class knows its gRPC code; its docstring is its default message. No
message carries SQL, a host name or a stack trace: it goes to callers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from grpc import StatusCode

DOMAIN = "likering"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong: its path (``mutations[3].post_id``), the reason, and a sentence."""

    field: str
    reason: str
    description: str


class LikeringError(Exception):
    """The call failed."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        """``metadata`` goes into the ErrorInfo, ``retry_after`` (seconds) into a RetryInfo."""
        if message is None:
            message = (type(self).__doc__ or "").split("\n", 1)[0]
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.request_id = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"


class InternalError(LikeringError):
    """Something went wrong inside the service; this is a bug."""


class InvalidArgument(LikeringError):
    """The request is not valid."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "ARGUMENT_INVALID"

    @staticmethod
    def of(violations: Sequence[FieldViolation]) -> InvalidArgument:
        """The error of the first violation's reason, listing all of them."""
        first = violations[0]
        error_class = ERRORS_BY_REASON[first.reason]
        assert issubclass(error_class, InvalidArgument)
        return error_class(f"{first.field}: {first.description}", violations=violations)


class IdEmpty(InvalidArgument):
    """The id is empty."""

    reason = "ID_EMPTY"


class IdTooLong(InvalidArgument):
    """The id has more than 128 bytes."""

    reason = "ID_TOO_LONG"


class IdNotPrintable(InvalidArgument):
    """The id has a NUL or is not valid UTF-8."""

    reason = "ID_NOT_PRINTABLE"


class BatchEmpty(InvalidArgument):
    """The list needs at least one item."""

    reason = "BATCH_EMPTY"


class BatchTooLarge(InvalidArgument):
    """The list has more items than the call allows."""

    reason = "BATCH_TOO_LARGE"


class PageSizeNegative(InvalidArgument):
    """The page size is negative."""

    reason = "PAGE_SIZE_NEGATIVE"


class PageTokenInvalid(InvalidArgument):
    """The page token was not issued for this list."""

    reason = "PAGE_TOKEN_INVALID"


class CursorInvalid(InvalidArgument):
    """The cursor was not issued by this cluster."""

    reason = "CURSOR_INVALID"


class IntentInFuture(InvalidArgument):
    """The intent time is more than 60 s ahead of the server."""

    reason = "INTENT_IN_FUTURE"


class IntentInvalid(InvalidArgument):
    """The intent time is not a valid time after 1970."""

    reason = "INTENT_INVALID"


class IntentTooOld(InvalidArgument):
    """The intent time of the like is older than unlikes that are remembered no longer."""

    reason = "INTENT_TOO_OLD"


class EnumUnknown(InvalidArgument):
    """The value is not one that this server knows."""

    reason = "ENUM_UNKNOWN"


class VersionNegative(InvalidArgument):
    """The lowest acceptable version is negative."""

    reason = "VERSION_NEGATIVE"


class MessageMalformed(InvalidArgument):
    """The bytes are not a message of the request's type."""

    reason = "MESSAGE_MALFORMED"


class SlotUnknown(InvalidArgument):
    """The cluster, or the cursor, has no such slot, or the list names it twice."""

    reason = "SLOT_UNKNOWN"


class LikeTimeInvalid(InvalidArgument):
    """A like's time is after 1970 and at most a minute ahead of the server."""

    reason = "LIKE_TIME_INVALID"


class CursorExpired(LikeringError):
    """Unlikes that the consumer was not told of are remembered no longer; begin without a cursor, with nothing kept.

    ``metadata`` has the slot, where the consumer stands in it, and up to which revision (µs since 1970) it was swept.
    """

    code = StatusCode.OUT_OF_RANGE
    reason = "CURSOR_EXPIRED"


class RouterOverloaded(LikeringError):
    """The router holds as many waiting operations as it may; try again a little later."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "ROUTER_OVERLOADED"


class ShardOverloaded(LikeringError):
    """The shard holds as many waiting operations as it may; try again a little later."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "SHARD_OVERLOADED"


class CallerRateLimited(LikeringError):
    """The caller sends more than it may."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "CALLER_RATE_LIMITED"


class StorageFull(LikeringError):
    """The shard has no room left to store likes."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "STORAGE_FULL"


class ShardUnavailable(LikeringError):
    """The shard that owns the post did not answer in time."""

    code = StatusCode.UNAVAILABLE
    reason = "SHARD_UNAVAILABLE"


class SlotMoving(LikeringError):
    """The post is moving to another shard, for longer than the deadline allowed to wait."""

    code = StatusCode.UNAVAILABLE
    reason = "SLOT_MOVING"


class TopologyUnavailable(LikeringError):
    """No topology is known yet."""

    code = StatusCode.UNAVAILABLE
    reason = "TOPOLOGY_UNAVAILABLE"


class NoSynchronousStandby(LikeringError):
    """The shard that owns the post takes no writes: its database has no synchronous standby."""

    code = StatusCode.UNAVAILABLE
    reason = "NO_SYNCHRONOUS_STANDBY"


class DeadlineExceeded(LikeringError):
    """The deadline passed; the outcome of a write is unknown."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class VersionAhead(LikeringError):
    """The lowest acceptable version is above the version that the owner has."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "VERSION_AHEAD"


class PlanStale(LikeringError):
    """The topology has changed since the plan was made."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "PLAN_STALE"


class NodeOwnsSlots(LikeringError):
    """The node still owns slots."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "NODE_OWNS_SLOTS"


class MoveCommitted(LikeringError):
    """The move can no longer be cancelled."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "MOVE_COMMITTED"


class WrongCluster(LikeringError):
    """The request is for another cluster."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "WRONG_CLUSTER"


class NotPossible(LikeringError):
    """This cannot be done as things are now."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "NOT_POSSIBLE"


class PostBeingPurged(LikeringError):
    """The likes of the post are being erased; it takes new ones afterwards."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "POST_BEING_PURGED"


class UserBeingPurged(LikeringError):
    """The user is being erased; likes and unlikes are taken again afterwards."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "USER_BEING_PURGED"


class NotFound(LikeringError):
    """There is no such thing."""

    code = StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class TopologyChanged(LikeringError):
    """The topology has changed meanwhile; read it again."""

    code = StatusCode.ABORTED
    reason = "TOPOLOGY_CHANGED"


class NoCredential(LikeringError):
    """The call carries no credential."""

    code = StatusCode.UNAUTHENTICATED
    reason = "NO_CREDENTIAL"


class NotAnOperator(LikeringError):
    """The credential is not an operator's."""

    code = StatusCode.PERMISSION_DENIED
    reason = "NOT_AN_OPERATOR"


def _concrete(base: type[LikeringError]) -> list[type[LikeringError]]:
    return [base, *(error for child in base.__subclasses__() for error in _concrete(child))]


ERRORS_BY_REASON: Mapping[str, type[LikeringError]] = {
    error.reason: error for error in _concrete(LikeringError) if error is not LikeringError
}
"""Reason (without the enum's prefix) → class."""
