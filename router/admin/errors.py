"""How the service for operators says no, besides the errors that the stores know."""

from __future__ import annotations

from grpc import StatusCode

from likering.errors import LikeringError


class NotPossible(LikeringError):
    """This cannot be done as things are now."""

    code = StatusCode.FAILED_PRECONDITION


class NotFound(LikeringError):
    """There is no such thing."""

    code = StatusCode.NOT_FOUND
