"""A router's server over gRPC, in front of shards without databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from likering.errors import LikeringError
from likering.serving.handlers import ServiceHandlers
from likering.serving.server import Server, ServerSettings
from likering.serving.status import from_rpc_error
from likering.v1 import like_service_pb2 as api
from router.dispatch import Dispatch
from router.service import LikeService
from tests.parts.fake_shard import SLOTS, FakeShard, topology_of
from tests.parts.until import until


@asynccontextmanager
async def router(
    *fakes: FakeShard, default_deadline: float = 10.0, dispatch: Dispatch | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A router over the shards, which own every other slot; gives a channel to it."""
    dispatch = dispatch or Dispatch()
    owners = {slot: fakes[slot % len(fakes)] for slot in range(SLOTS)}
    dispatch.use(topology_of(owners))
    handlers = ServiceHandlers(
        api.DESCRIPTOR.services_by_name["LikeService"],
        LikeService(dispatch),
        nul_for_undecodable=True,
        default_deadline=default_deadline,
    )
    server = Server([handlers], ServerSettings())
    await server.start("127.0.0.1:0")
    await until(lambda: all(node.connected for node in dispatch._nodes.values()))
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel
    for fake in fakes:
        fake.open.set()
    await server.drain(delay=0, grace=1)
    await dispatch.close()


async def refusal(call: Any) -> LikeringError:
    """The error that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is from_rpc_error(caught.value).code
    return from_rpc_error(caught.value)
