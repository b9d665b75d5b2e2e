"""The limit of grpcio itself: answers each call with ready-made bytes, as many as the real answer has."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from comparison.serving import Register, main
from likering.v1 import like_service_pb2 as pb

Handler = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]


def _answering(response: bytes) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return response

    return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def _open(_: str) -> AsyncIterator[Register]:
    count = pb.LikeCount(post_id="0" * 19, count=100, version=100, exactness=pb.EXACTNESS_EXACT)
    count.as_of_time.FromMicroseconds(time.time_ns() // 1000)
    like = pb.LikeResponse(outcome=pb.MUTATION_OUTCOME_CHANGED, like_count=count)
    handlers = {
        "Like": _answering(like.SerializeToString()),
        "GetLikeCount": _answering(pb.GetLikeCountResponse(like_count=count).SerializeToString()),
    }

    def register(server: grpc.aio.Server) -> None:
        service = grpc.method_handlers_generic_handler("likering.v1.LikeService", handlers)
        server.add_generic_rpc_handlers([service])

    yield register


if __name__ == "__main__":
    main(_open)
