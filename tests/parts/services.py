"""The descriptors of all services of the protos."""

from __future__ import annotations

from typing import Any, Final

from likering.admin.v1 import like_admin_service_pb2, ring_service_pb2
from likering.shard.v1 import shard_admin_service_pb2, shard_service_pb2
from likering.v1 import like_service_pb2

FILES: Final = (
    like_service_pb2.DESCRIPTOR,
    like_admin_service_pb2.DESCRIPTOR,
    ring_service_pb2.DESCRIPTOR,
    shard_service_pb2.DESCRIPTOR,
    shard_admin_service_pb2.DESCRIPTOR,
)
SERVICES: Final[list[Any]] = [service for file in FILES for service in file.services_by_name.values()]
