"""The likering.v1 API over a peer's way of storing likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from comparison.serving import Register
from likering.v1 import like_service_pb2 as pb


class Likes(Protocol):
    """How a peer stores likes."""

    async def like(self, user_id: str, post_id: str) -> tuple[bool, int]:
        """Stores a like: whether that changed anything, and the post's count then."""

    async def count(self, post_id: str) -> int:
        """The post's count."""

    async def close(self) -> None:
        """Ends all connections."""


class PeerService:
    """Like, GetLikeCount and MutateLikes."""

    def __init__(self, likes: Likes) -> None:
        self._likes = likes

    async def like(self, request: pb.LikeRequest, context: object) -> pb.LikeResponse:
        """LikeService.Like."""
        changed, count = await self._likes.like(request.user_id, request.post_id)
        return pb.LikeResponse(outcome=_outcome(changed), like_count=_count(request.post_id, count))

    async def get_like_count(
        self, request: pb.GetLikeCountRequest, context: object
    ) -> pb.GetLikeCountResponse:
        """LikeService.GetLikeCount."""
        count = await self._likes.count(request.post_id)
        return pb.GetLikeCountResponse(like_count=_count(request.post_id, count))

    async def mutate_likes(self, request: pb.MutateLikesRequest, context: object) -> pb.MutateLikesResponse:
        """LikeService.MutateLikes, of likes only: each is stored by itself, side by side."""
        answers = await asyncio.gather(
            *(self._likes.like(mutation.user_id, mutation.post_id) for mutation in request.mutations)
        )
        response = pb.MutateLikesResponse()
        for mutation, (changed, count) in zip(request.mutations, answers, strict=True):
            response.results.add(outcome=_outcome(changed), like_count=_count(mutation.post_id, count))
        return response

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the calls to a server."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Like": grpc.unary_unary_rpc_method_handler(
                self.like, pb.LikeRequest.FromString, pb.LikeResponse.SerializeToString
            ),
            "GetLikeCount": grpc.unary_unary_rpc_method_handler(
                self.get_like_count,
                pb.GetLikeCountRequest.FromString,
                pb.GetLikeCountResponse.SerializeToString,
            ),
            "MutateLikes": grpc.unary_unary_rpc_method_handler(
                self.mutate_likes, pb.MutateLikesRequest.FromString, pb.MutateLikesResponse.SerializeToString
            ),
        }
        service = grpc.method_handlers_generic_handler("likering.v1.LikeService", handlers)
        server.add_generic_rpc_handlers([service])


def _outcome(changed: bool) -> pb.MutationOutcome.ValueType:
    return pb.MUTATION_OUTCOME_CHANGED if changed else pb.MUTATION_OUTCOME_UNCHANGED


def _count(post_id: str, count: int) -> pb.LikeCount:
    return pb.LikeCount(post_id=post_id, count=count, exactness=pb.EXACTNESS_EXACT)


@asynccontextmanager
async def serving(likes: Likes) -> AsyncIterator[Register]:
    """Registers the service of these likes, and closes them in the end."""
    try:
        yield PeerService(likes).register
    finally:
        await likes.close()
