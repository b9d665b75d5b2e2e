"""The connection of a command to the router's port for operators, and what it says when that does not work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

import grpc
import typer
from google.protobuf.message import Message

from likering.admin.v1.like_admin_service_pb2_grpc import LikeAdminServiceStub
from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.cli import credentials
from likering.cli.exit_codes import ExitCode, fail
from likering.client.connect import Target, check_address
from likering.errors import LikeringError

DEFAULT_ADMIN: Final = "localhost:50052"
CALL_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.5
_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""All moves of 16384 slots, with their history."""

_REFUSALS: Final = frozenset(
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
    )
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def _checked(value: str) -> str:
    try:
        return check_address(value)
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("50051", "50052")) from None


Admin = Annotated[
    str,
    typer.Option(
        "--admin",
        envvar="LIKERING_ADMIN",
        callback=_checked,
        help="The router's port for operators (its --admin-listen), host:port.",
    ),
]


class AdminError(Exception):
    """A call that failed: a sentence, the reason in likering.v1.ErrorReason where there is one, an exit code."""

    def __init__(self, message: str, code: grpc.StatusCode, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason

    @property
    def exit_code(self) -> ExitCode:
        if self.code in _REFUSALS:
            return ExitCode.REFUSED
        return ExitCode.TIMED_OUT if self.code is grpc.StatusCode.DEADLINE_EXCEEDED else ExitCode.FAILED


class AdminConnection:
    """The services for operators at an address; a context manager. Calls raise AdminError."""

    def __init__(self, address: str) -> None:
        shown = credentials.of_command()
        self._target = Target(
            address,
            credentials=shown.tls,
            token=shown.token,
            options=(
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ),
        )
        self._channel = self._target.channel(self._target.shown())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(self, method: grpc.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        """One call."""
        try:
            return method(request, timeout=CALL_SECONDS, metadata=self._target.metadata())
        except grpc.RpcError as failure:
            raise self._error(failure) from failure

    def watch(
        self, method: grpc.UnaryStreamMultiCallable[Q, R], request: Q, *, deadline: float | None = None
    ) -> Iterator[R]:
        """What the server sends, until ``deadline`` (on the monotonic clock), which is a TimeoutError.

        Once there was an answer, a connection that breaks is made anew: moves go on without a router.
        """
        answered = told = False
        while True:
            remaining = None if deadline is None else max(0.001, deadline - time.monotonic())
            stream = method(request, timeout=remaining, metadata=self._target.metadata())
            try:
                for response in stream:
                    answered, told = True, False
                    yield response
            except grpc.RpcError as failure:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError from failure
                error = self._error(failure)
                if not answered or error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise error from failure
                if not told:
                    typer.echo(f"{error.message}; trying again", err=True)
                    told = True
            finally:
                stream.cancel()
            time.sleep(_RETRY_SECONDS)

    def stream(self, method: grpc.UnaryStreamMultiCallable[Q, R], request: Q) -> Iterator[R]:
        """What the server sends, to its end."""
        stream = method(request, metadata=self._target.metadata())
        try:
            yield from stream
        except grpc.RpcError as failure:
            raise self._error(failure) from failure
        finally:
            stream.cancel()

    def _error(self, failure: grpc.RpcError) -> AdminError:
        code = failure.code()
        error = self._target.error(failure)
        address = self._target.address
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return AdminError(
                f"{address} answers, but does not serve operators: give the address of the router's --admin-listen",
                code,
            )
        if code is grpc.StatusCode.UNAVAILABLE and error.reason == "SERVICE_UNREACHABLE":
            return AdminError(f"{error.message} (operators are served where --admin-listen says)", code)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return AdminError(f"No answer from {address} within {CALL_SECONDS:g} s", code)
        return AdminError(error.message, code, _reason(error))


class Ring(AdminConnection):
    """RingService."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.stub = RingServiceStub(self._channel)


class LikeAdmin(AdminConnection):
    """LikeAdminService."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.stub = LikeAdminServiceStub(self._channel)


def _reason(error: LikeringError) -> str:
    return "" if error.reason == "INTERNAL" else error.reason


@contextmanager
def ring_at(address: str) -> Iterator[Ring]:
    """The connection of a command, whose errors end it with a sentence and an exit code."""
    with Ring(address) as ring, _ended_by_errors():
        yield ring


@contextmanager
def likes_at(address: str) -> Iterator[LikeAdmin]:
    """As ``ring_at``, for LikeAdminService."""
    with LikeAdmin(address) as likes, _ended_by_errors():
        yield likes


@contextmanager
def _ended_by_errors() -> Iterator[None]:
    try:
        yield
    except AdminError as error:
        fail(error.message, error.exit_code)
