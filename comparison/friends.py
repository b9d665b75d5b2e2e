"""Which of a thousand friends like a post: one FilterLikers call beside a thousand HasLiked calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc.aio

from comparison.resize import Say, ring
from likering import AsyncLikes, Mutation
from likering.v1 import like_service_pb2 as api
from likering.v1.like_service_pb2_grpc import LikeServiceStub

if TYPE_CHECKING:
    from likering.v1.like_service_pb2_grpc import LikeServiceAsyncStub

T = TypeVar("T")

FRIENDS = 1000
_POST = "seen by friends"
_AT_ONCE = 64


async def asked_together(directory: Path, say: Say, *, rounds: int) -> dict[str, Any]:
    """Every second one of a thousand friends likes the post."""
    friends = [f"friend-{number}" for number in range(FRIENDS)]
    async with ring(directory, say, nodes=3, slots=64) as one:
        async with AsyncLikes(one.cluster.address) as client:
            await client.mutate([Mutation.like(friend, _POST) for friend in friends[::2]])
        async with grpc.aio.insecure_channel(one.cluster.address) as channel:
            stub = cast("LikeServiceAsyncStub", LikeServiceStub(channel))
            gate = asyncio.Semaphore(_AT_ONCE)

            async def together() -> list[str]:
                answer = await stub.FilterLikers(api.FilterLikersRequest(post_id=_POST, user_ids=friends))
                return list(answer.liked_user_ids)

            async def liked(friend: str) -> bool:
                async with gate:
                    answer = await stub.HasLiked(api.HasLikedRequest(user_id=friend, post_id=_POST))
                return bool(answer.liked)

            async def at_once() -> list[str]:
                answers = await asyncio.gather(*map(liked, friends))
                return [friend for friend, answer in zip(friends, answers, strict=True) if answer]

            async def one_by_one() -> list[str]:
                return [friend for friend in friends if await liked(friend)]

            asked = {"together": together, "at once": at_once, "one by one": one_by_one}
            seconds: dict[str, list[float]] = {name: [] for name in asked}
            wrong = 0
            for _ in range(rounds):
                for name, ask in asked.items():
                    took, answer = await _timed(ask)
                    seconds[name].append(took)
                    wrong += answer != friends[::2]
        figures = {name: median(times) for name, times in seconds.items()}
        return {
            **{f"{name}, p50 ms": figure * 1000 for name, figure in figures.items()},
            f"HasLiked, {_AT_ONCE} in flight ÷ FilterLikers": figures["at once"] / figures["together"],
            "HasLiked one by one ÷ FilterLikers": figures["one by one"] / figures["together"],
            "wrong": wrong,
        }


async def _timed(ask: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    began = time.monotonic()
    answer = await ask()
    return time.monotonic() - began, answer
