"""Takes in the request of a call, in bounded time.

Handlers of ours are registered as taking a stream of requests, of which there is one: for a handler of one request gRPC
takes in the whole message before it calls it, from anybody. On one connection 400 calls without a credential that never
ended their messages held 400 MiB of a router for as long as they liked.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, cast

import grpc.aio

from likering.errors import DeadlineExceeded, MessageMalformed

SECONDS: Final = 60.0
"""In which a request has to arrive, whatever its caller's deadline: what has come of it is memory.

Few callers have longer deadlines. A timer of ours besides, for each call, took 2 % of a router's CPU.
"""


class Requests(Protocol):
    """The part of grpc.aio.ServicerContext that gives the requests of a call."""

    async def read(self) -> Any: ...


async def request(context: Requests, remaining: float | None) -> bytes:
    """The request's bytes. ``remaining``: seconds to the call's deadline, None when it has none.

    Raises DeadlineExceeded when they do not come, MessageMalformed when the caller sends none.
    """
    if remaining is not None and remaining <= SECONDS:
        data = await context.read()  # gRPC ends the call in time
    else:
        try:
            async with asyncio.timeout(SECONDS):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded("The request did not arrive.") from None
    if data is grpc.aio.EOF:
        raise MessageMalformed("The call has no request.")
    return cast(bytes, data)
