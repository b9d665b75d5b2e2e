"""Makes the gRPC handlers of a service from its descriptor and a servicer: one wrapper around every method.

The wrapper is put on at registration, so a new method cannot be without it, and it is no ServerInterceptor, which
would cost 7 to 10 % of a call. It parses the request, gives the call a request id and a deadline, turns errors into
statuses, logs slow and failed calls, counts and times all of them, and makes a span of each where traces are on.
Methods that answer with a stream, such as watches, are wrapped as well, but for the deadline and the span; they end
when the server drains.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from time import monotonic, time
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from likering.errors import InternalError, LikeringError, NoCredential
from likering.security.guard import Guard
from likering.serving import tracing, undecodable
from likering.serving.admission import Admission
from likering.serving.call_metrics import CallTally
from likering.serving.logging import request_id_of_call
from likering.serving.status import DETAILS_KEY, to_status
from likering.serving.trail import Trail, trail_of_call
from likering.throttle import Throttle

REQUEST_ID_KEY = "x-request-id"
_MAX_REQUEST_ID = 128

_TIMER_SECONDS = 0.005
"""By how much gRPC may end a call before the deadline that it told: its timers have milliseconds."""

_log = structlog.get_logger(__name__)


class Call:
    """What a servicer's method is told about the call it serves."""

    __slots__ = ("caller", "context", "deadline", "request_id", "trail")

    def __init__(self, request_id: str, deadline: float, context: Context, trail: Trail) -> None:
        self.request_id = request_id
        """The caller's x-request-id, or one made up here."""
        self.deadline = deadline
        """When the caller stops waiting, on the clock of ``time.monotonic``; infinite for a stream without deadline."""
        self.context = context
        self.caller = ""
        """Whose credential the call carries, for logs; empty where none is asked for."""
        self.trail = trail
        """Where it was, for the line of a slow call."""


class Context(Protocol):
    """The part of grpc.aio.ServicerContext that the wrapper needs."""

    def invocation_metadata(self) -> Any: ...
    def auth_context(self) -> Any: ...
    def time_remaining(self) -> float | None: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None: ...
    async def write(self, message: bytes) -> None: ...


Behaviour: TypeAlias = Callable[[Any, Call], Awaitable[Message]]
StreamBehaviour: TypeAlias = Callable[[Any, Call], AsyncGenerator[Message, None]]


class _Draining(Exception):
    """A stream is to end because its server does."""


class ServiceHandlers(grpc.GenericRpcHandler):
    """The wrapped methods of one service.

    ``servicer`` has an ``async def Method(self, request, call: Call) -> response`` for each method of the service, an
    async generator of responses for one that answers with a stream; a missing one is a TypeError here. It raises
    LikeringError for what the caller is to know.

    ``default_deadline``: seconds that a call without a deadline is given. A stream is given none.
    ``slow_call``: seconds above which a call is logged. A stream never is.
    ``nul_for_undecodable``: the servicer refuses ids with a NUL one by one, so it is given one in place of each
    string that is not valid UTF-8; without it the whole call is refused.
    ``admission``: where large requests wait for their turn; those for a stream do not.
    ``guard``: lets calls in by the rules of ``likering.security.roles``; a method without a rule is a LookupError
    here. None: everybody may call everything.
    ``methods``: all that is served of the service, by name; the others are UNIMPLEMENTED. None: every one.
    """

    def __init__(
        self,
        service: ServiceDescriptor,
        servicer: object,
        *,
        default_deadline: float = 10.0,
        slow_call: float = 1.0,
        nul_for_undecodable: bool = False,
        admission: Admission | None = None,
        guard: Guard | None = None,
        methods: Collection[str] | None = None,
    ) -> None:
        self.service_name: str = service.full_name
        self._default_deadline = default_deadline
        self._slow_call = slow_call
        self._nul_for_undecodable = nul_for_undecodable
        self._admission = admission
        self._guard = guard
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._until_drain: set[asyncio.Timeout] = set()
        """One per stream that waits for its next response; runs out at the drain, or with the caller's credential."""
        self._streams_ended = False
        self._log_lines = Throttle(per_second=50)
        self._tracing = tracing.active()
        self.tallies: list[CallTally] = []
        """What the calls came to, by method."""
        # Unique over processes and restarts, and cheap per call.
        self._id_prefix = secrets.token_hex(6)
        self._id_numbers = itertools.count(1)
        self._methods = {
            f"/{service.full_name}/{method.name}": self._handler(method, servicer)
            for method in service.methods
            if methods is None or method.name in methods
        }

    def __repr__(self) -> str:
        return f"<ServiceHandlers {self.service_name}, {self._in_progress} calls in progress>"

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, for gRPC."""
        return self._methods.get(handler_call_details.method)

    @property
    def in_progress(self) -> int:
        """Calls that a servicer works on right now."""
        return self._in_progress

    async def idle(self) -> None:
        """Waits until no call is in progress."""
        await self._idle.wait()

    def end_streams(self) -> None:
        """Ends the streams with UNAVAILABLE, and each one that begins from now on: a drain waits for no watcher."""
        if self._streams_ended:
            return
        self._streams_ended = True
        now = asyncio.get_running_loop().time()
        for timeout in self._until_drain:
            if not timeout.expired():
                timeout.reschedule(now)

    def _handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        if method.client_streaming:
            raise TypeError(f"{method.full_name} takes a stream of requests, which has no wrapper")
        behaviour = getattr(servicer, method.name, None)
        if method.server_streaming:
            if not inspect.isasyncgenfunction(behaviour):
                raise TypeError(f"{type(servicer).__name__} has no async generator {method.name}")
            return grpc.unary_stream_rpc_method_handler(
                # The type stubs know only of synchronous streams.
                cast(Any, self._wrap_stream(method, cast(StreamBehaviour, behaviour)))
            )
        if not asyncio.iscoroutinefunction(behaviour):
            raise TypeError(f"{type(servicer).__name__} has no async method {method.name}")
        # Without (de)serialisers gRPC hands over bytes: failures in them would be answered UNKNOWN with the exception.
        return grpc.unary_unary_rpc_method_handler(self._wrap(method, cast(Behaviour, behaviour)))

    def _wrap(
        self, method: MethodDescriptor, behaviour: Behaviour
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        name = f"{method.containing_service.full_name}/{method.name}"
        parse = cast(Callable[[bytes], Message], GetMessageClass(method.input_type).FromString)
        tally = self._tally(method)
        traces = self._tracing
        default_deadline = self._default_deadline
        slow_call = self._slow_call
        admission = self._admission
        large = admission.large if admission is not None else sys.maxsize
        gate = self._guard.gate(name) if self._guard is not None else None

        async def handle(data: bytes, context: Context) -> bytes:
            started = monotonic()
            request_id = ""
            for key, value in context.invocation_metadata():
                if key == REQUEST_ID_KEY and len(value) <= _MAX_REQUEST_ID:
                    request_id = value
            if not request_id:
                request_id = f"{self._id_prefix}{next(self._id_numbers):x}"
            request_id_of_call.set(request_id)
            remaining = context.time_remaining()
            trail = Trail(started)
            trail_of_call.set(trail)
            call = Call(
                request_id, started + (default_deadline if remaining is None else remaining), context, trail
            )
            if traces is not None:
                trail.span = traces.call(name, context.invocation_metadata())
            tally.started += 1
            self._in_progress += 1
            if self._in_progress == 1:
                self._idle.clear()
            admitted = 0
            code = ""
            try:
                if gate is not None:
                    # Before anything is parsed or waited for.
                    identity = gate.identify(context)
                    call.caller = identity.name
                    gate.check_role(identity)
                if admission is not None and len(data) > large:
                    await admission.enter(len(data))
                    admitted = len(data)
                try:
                    request = parse(data)
                except DecodeError:
                    request = self._parse_again(method, data)
                if gate is not None:
                    gate.check_user(identity, request)
                response = (await behaviour(request, call)).SerializeToString()
                code = "OK"
                tally.sent += 1
            except LikeringError as error:
                code = error.code.name
                return self._fail(error, name, call, started)
            except Exception as error:  # the boundary: a bug is logged here, and nothing of it is told
                code = InternalError.code.name
                return self._fail(InternalError(), name, call, started, bug=error)
            finally:
                ended = monotonic()
                failed = code not in ("", "OK")  # and has left its line
                code = code or _code_of_cancelled(call, ended)
                tally.ended(code, ended - started)
                if trail.span is not None:
                    trail.span.end(code)
                if admission is not None and admitted:
                    admission.leave(admitted)
                self._in_progress -= 1
                if not self._in_progress:
                    self._idle.set()
                if ended - started > slow_call and not failed:
                    self._say("slow call", name, call, started, code)
            return response

        return handle

    def _wrap_stream(
        self, method: MethodDescriptor, behaviour: StreamBehaviour
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        name = f"{method.containing_service.full_name}/{method.name}"
        parse = cast(Callable[[bytes], Message], GetMessageClass(method.input_type).FromString)
        gate = self._guard.gate(name) if self._guard is not None else None
        tally = self._tally(method)

        # Writes instead of being a generator itself: gRPC does not close the generator of a call that is cancelled
        # while it sends, so the servicer's last lines would run at some time later.
        async def handle(data: bytes, context: Context) -> None:
            started = monotonic()
            # Not for ``trail_of_call``, nor with a span: a stream lives for days, and what it does would only add up.
            call = Call(self._request_id(context), _deadline(started, context), context, Trail(started))
            request_id_of_call.set(call.request_id)
            tally.started += 1
            code = ""
            self._in_progress += 1
            self._idle.clear()
            expires_at = math.inf
            try:
                if gate is not None:
                    identity = gate.identify(context)
                    call.caller = identity.name
                    gate.check_role(identity)
                    expires_at = started + identity.expires_at - time()
                try:
                    request = parse(data)
                except DecodeError:
                    request = self._parse_again(method, data)
                if gate is not None:
                    gate.check_user(identity, request)
                async with aclosing(behaviour(request, call)) as responses:
                    while (response := await self._next(responses, expires_at)) is not None:
                        await context.write(response.SerializeToString())
                        tally.sent += 1
                code = "OK"
            except _Draining:
                code = "UNAVAILABLE"
                # No reason of ours: it is what gRPC itself says to the calls that come too late.
                context.set_code(grpc.StatusCode.UNAVAILABLE)
                context.set_details("The server is stopping")
            except LikeringError as error:
                code = error.code.name
                self._fail(error, name, call, started)
            except Exception as error:  # the boundary, as for a call with one response
                code = InternalError.code.name
                self._fail(InternalError(), name, call, started, bug=error)
            finally:
                ended = monotonic()
                tally.ended(code or _code_of_cancelled(call, ended), ended - started)
                self._in_progress -= 1
                if not self._in_progress:
                    self._idle.set()

        return handle

    async def _next(self, responses: AsyncGenerator[Message, None], expires_at: float) -> Message | None:
        """The next response of a stream, None after the last one. Raises _Draining, or NoCredential after
        ``expires_at`` (monotonic): a stream does not outlive the credential that it began with.
        """
        # Only here can a stream be ended: gRPC fails to send the status while a write is in progress.
        if self._streams_ended:
            raise _Draining
        remaining = expires_at - monotonic()
        if remaining <= 0:
            raise NoCredential
        until_drain = asyncio.timeout(None if math.isinf(remaining) else remaining)
        try:
            async with until_drain:
                self._until_drain.add(until_drain)
                return await anext(responses)
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            if not until_drain.expired():
                raise
            raise (_Draining if self._streams_ended else NoCredential) from error
        finally:
            self._until_drain.discard(until_drain)

    def _tally(self, method: MethodDescriptor) -> CallTally:
        tally = CallTally(self.service_name, method.name, streams=method.server_streaming)
        self.tallies.append(tally)
        return tally

    def _request_id(self, context: Context) -> str:
        for key, value in context.invocation_metadata():
            if key == REQUEST_ID_KEY and 0 < len(value) <= _MAX_REQUEST_ID:
                return str(value)
        return f"{self._id_prefix}{next(self._id_numbers):x}"

    def _parse_again(self, method: MethodDescriptor, data: bytes) -> Message:
        if self._nul_for_undecodable:
            repaired = undecodable.with_nul(method.input_type, data)
            if repaired is not None:
                return GetMessageClass(method.input_type).FromString(repaired)
        raise undecodable.explain(method.input_type, data)

    def _fail(
        self, error: LikeringError, name: str, call: Call, started: float, bug: Exception | None = None
    ) -> bytes:
        # Not context.abort: it raises inside the handler, and stop(grace) then returned before the handler's end.
        error.request_id = call.request_id
        status = to_status(error)
        call.context.set_code(error.code)
        call.context.set_details(status.message)
        call.context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        if bug is not None:
            _log.error("call failed by a bug", method=name, request_id=call.request_id, exc_info=bug)
        else:
            self._say("failed call", name, call, started, error.code.name, reason=error.reason)
        return b""

    def _say(self, event: str, name: str, call: Call, started: float, code: str, **more: str) -> None:
        if (left_out := self._log_lines.admit()) is None:
            return
        ended = monotonic()
        slow = ended - started > self._slow_call
        trace_id = call.trail.span.trace_id if call.trail.span is not None else ""
        _log.info(
            event,
            method=name,
            code=code,
            request_id=call.request_id,
            seconds=round(ended - started, 4),
            **({"caller": call.caller} if call.caller else {}),
            **(call.trail.told(ended) if slow else {}),
            **({"trace_id": trace_id} if trace_id else {}),
            **({"lines_left_out": left_out} if left_out else {}),
            **more,
        )


def _code_of_cancelled(call: Call, ended: float) -> str:
    """The code of a call that was cancelled, by its caller or because its time was up."""
    return "DEADLINE_EXCEEDED" if ended > call.deadline - _TIMER_SECONDS else "CANCELLED"


def _deadline(started: float, context: Context) -> float:
    remaining = context.time_remaining()
    return math.inf if remaining is None else started + remaining
