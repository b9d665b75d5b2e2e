"""grpc.health.v1 that is honest at start and lets a server drain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from likering.errors import LikeringError, MessageMalformed, NoCredential
from likering.security.guard import Guard
from likering.serving import arrival
from likering.serving.status import fail

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]

LIVENESS: Final = "liveness"
"""A name of which health says SERVING for as long as the process answers at all: for whoever restarts one that hangs.

NOT_SERVING asks for no restart: a node that waits for the lead is well.
"""


class Health(health.aio.HealthServicer):
    """The health of the server as a whole ("") and of each service.

    The library's servicer begins as SERVING, and its watchers never end: a server would drain until its grace is over.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._names = ("", *services)
        self._draining = asyncio.Event()

    async def set_serving(self, serving: bool) -> None:
        """Says the same of the server and of all its services."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)
        await self.set(LIVENESS, HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """NOT_SERVING from now on."""
        await self.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """Ends the watchers' streams, and each one that begins from now on."""
        self._draining.set()

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The changes of one status, until the server drains."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, ended):
                task.cancel()
            await asyncio.gather(watching, ended, return_exceptions=True)


class HealthHandlers(grpc.GenericRpcHandler):
    """The methods of Health, for gRPC.

    They are for everybody. But where others show a credential, whoever shows none is told how the server as a whole is:
    the request of somebody unknown is not taken in, see ``likering.serving.arrival``.
    """

    def __init__(self, servicer: Health, guard: Guard | None = None) -> None:
        """``guard``: knows who has a credential; None: nobody has any."""
        self._servicer = servicer
        self._guard = guard
        self._methods = {
            f"/{SERVICE.full_name}/{method.name}": self._handler(method) for method in SERVICE.methods
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, for gRPC."""
        return self._methods.get(handler_call_details.method)

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour: Any = getattr(self._servicer, method.name)

        async def handle(_requests: object, context: Any) -> Any:
            try:
                request = await self._request(method, context)
            except LikeringError as error:
                fail(context, error)
                return None if method.server_streaming else GetMessageClass(method.output_type)()
            return await behaviour(request, context)

        # The type stubs know only of synchronous handlers.
        of_kind = (
            grpc.stream_stream_rpc_method_handler
            if method.server_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        serialise = GetMessageClass(method.output_type).SerializeToString
        return of_kind(cast(Any, handle), response_serializer=cast(Any, serialise))

    async def _request(self, method: Any, context: Any) -> Any:
        kind = GetMessageClass(method.input_type)
        if self._guard is not None:
            try:
                self._guard.identify(context)
            except NoCredential:
                return kind()
        try:
            return kind.FromString(await arrival.request(context, context.time_remaining()))
        except DecodeError:
            raise MessageMalformed from None
