"""Server reflection that asks the server's guard, as the services with handlers of ours do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from likering.errors import LikeringError
from likering.security.guard import Guard
from likering.serving.status import fail

_METHOD: Final = f"{reflection.SERVICE_NAME}/ServerReflectionInfo"


class Reflection:
    """Tells those who have a role here which services and messages there are; without a guard, everybody."""

    def __init__(self, services: Sequence[str], guard: Guard | None) -> None:
        self._library: Any = reflection.aio.ReflectionServicer(services)
        self._gate = guard.gate(_METHOD) if guard is not None else None

    async def ServerReflectionInfo(  # noqa: N802
        self, requests: AsyncIterator[ServerReflectionRequest], context: Any
    ) -> AsyncIterator[ServerReflectionResponse]:
        """The library's answers, for those who may have them."""
        try:
            self._check(context)
            async for response in self._library.ServerReflectionInfo(self._asked(requests, context), context):
                yield response
        except LikeringError as error:
            fail(context, error)

    async def _asked(
        self, requests: AsyncIterator[ServerReflectionRequest], context: Any
    ) -> AsyncIterator[ServerReflectionRequest]:
        """The questions, as long as the caller's credential counts: who asks may wait for days before the next one."""
        async for request in requests:
            self._check(context)
            yield request

    def _check(self, context: Any) -> None:
        if self._gate is not None:
            self._gate.check_caller(context)
