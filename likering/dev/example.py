"""The README's example, against a running cluster."""

from __future__ import annotations

import secrets

import grpc

from likering.client.tracker import LikeTracker
from likering.dev.errors import DevError
from likering.errors import LikeringError

_PATIENCE = 30.0
ANSWERS: list[bool | int] = [True, True, True, 2, False, 1]


def run(address: str, credentials: grpc.ChannelCredentials | None = None) -> list[bool | int]:
    """What the example prints. Its post is a new one each time, for the likes of the last time are still there.

    Raises DevError when a call fails or an answer is not the one it should be.
    """
    post = f"p-{secrets.token_hex(4)}"
    try:
        # The nodes may still be making the tables of their slots, on a machine that is busy.
        with LikeTracker(address, credentials=credentials, timeout=_PATIENCE) as likes:
            answers: list[bool | int] = [
                likes.like("u1", post),
                likes.like("u2", post),
                likes.has_liked("u1", post),
                likes.like_count(post),
            ]
            likes.unlike("u1", post)
            answers += [likes.has_liked("u1", post), likes.like_count(post)]
    except LikeringError as error:
        raise DevError(f"the example failed: {error.message}") from error
    if answers != ANSWERS:
        raise DevError(f"the example gave {answers} and not {ANSWERS}")
    return answers
