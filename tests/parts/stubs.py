"""The asyncio stubs, with the types of asyncio: the generated classes are typed for blocking channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from likering.admin.v1.ring_service_pb2_grpc import RingServiceStub
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.admin.v1.ring_service_pb2_grpc import RingServiceAsyncStub
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub


def like_stub(channel: grpc.aio.Channel) -> LikeServiceAsyncStub:
    """LikeService."""
    return cast("LikeServiceAsyncStub", LikeServiceStub(channel))


def ring_stub(channel: grpc.aio.Channel) -> RingServiceAsyncStub:
    """RingService."""
    return cast("RingServiceAsyncStub", RingServiceStub(channel))


async def health(channel: grpc.aio.Channel, service: str = "") -> str:
    """The name of a service's status."""
    stub: Any = HealthStub(channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
